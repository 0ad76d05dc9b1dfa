"""The tables of `knot-fed status`."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from knot_fed.run_log import printable


def status_tables(found: Mapping[str, Any], *, with_nodes: bool) -> Group:
    """Return a table of the nodes, where a SuperLink was asked for them, and those of the runs."""
    nodes = [_nodes(found["nodes"])] if with_nodes else []
    return Group(*nodes, *run_tables(found["runs"]))


def run_tables(runs: list[dict[str, Any]]) -> list[Table]:
    """Return a table of the runs, and one of the clients of the newest."""
    return [_runs(runs), *map(_traffic, runs[:1])]


def _nodes(nodes: list[dict[str, Any]]) -> Table:
    table = Table("name", "owner", "status", "since", "node", title="nodes")
    for node in nodes:
        table.add_row(*(_shown(node[key]) for key in ("name", "owner", "status", "since", "node")))
    return table


def _runs(runs: list[dict[str, Any]]) -> Table:
    table = Table("run", "status", "phase", "round", "kB up", "kB down", "time left", title="runs")
    for run in runs:
        table.add_row(
            _shown(run["run"]),
            _shown(run["status"]),
            _shown(run["failure"] or run["phase"]),
            f"{run['round']} of {run['rounds']}" if run["rounds"] else "",
            f"{run['bytes-up'] / 1e3:.1f}",
            f"{run['bytes-down'] / 1e3:.1f}",
            _time_left(run),
        )
    return table


def _traffic(run: Mapping[str, Any]) -> Table:
    title = f"clients of run {_shown(run['run'])}"
    table = Table("client", "last answer", "kB up", "kB down", "last message", title=title)
    for client in run["traffic"]:
        sizes = (f"{client[key] / 1e3:.1f}" for key in ("bytes-up", "bytes-down"))
        table.add_row(*map(_shown, (client["name"], client["outcome"])), *sizes, _shown(client["last"]))
    return table


def _shown(value: object) -> str:
    """Return what anybody may have named as plain text for a terminal."""
    return escape(printable(str(value)))


def _time_left(run: Mapping[str, Any]) -> str:
    if run["phase"] in ("finished", "failed"):
        return ""
    left = f"about {run['seconds-left']:.0f} s" if run["seconds-left"] is not None else "known after a round"
    return f"{left}; this phase ends by {run['phase-ends']}" if run["phase-ends"] else left
