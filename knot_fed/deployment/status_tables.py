"""The tables of `knot-fed status`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from knot_fed.runs.narrow import cause, narrow_table, plain, reasons


def status_tables(found: Mapping[str, Any], *, with_nodes: bool) -> Group:
    """Return a table of the nodes, where a SuperLink was asked for them, and those of the runs."""
    nodes = [_nodes(found["nodes"])] if with_nodes else []
    return Group(*nodes, *run_tables(found["runs"]))


def run_tables(runs: list[dict[str, Any]]) -> list[RenderableType]:
    """Return two tables of the runs with why one failed, and a table of the clients of the newest."""
    failures = [plain(f"run {run['run']}: {run['failure']}") for run in runs if run["failure"]]
    newest = [part for run in runs[:1] for part in _traffic(run)]
    return [_phases(runs), _amounts(runs), *failures, *newest]


def _nodes(nodes: list[dict[str, Any]]) -> Table:
    rows = [[node[key] for key in ("name", "owner", "since", "status", "node")] for node in nodes]
    return narrow_table(["name", "owner", "since"], ["status", "node"], rows=rows, title="nodes")


def _phases(runs: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [run["run"], run["status"], run["phase"], f"{run['round']} of {run['rounds']}" if run["rounds"] else ""]
        for run in runs
    ]
    return narrow_table(["run", "status", "phase"], ["round"], rows=rows, title="runs")


def _amounts(runs: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [run["run"], _time_left(run), *(f"{run[key] / 1e3:.1f}" for key in ("bytes-up", "bytes-down"))] for run in runs
    ]
    return narrow_table(["run", "time left"], ["kB up", "kB down"], rows=rows)


def _traffic(run: Mapping[str, Any]) -> list[RenderableType]:
    rows = [
        [
            client["name"],
            cause(client["outcome"]),
            *(f"{client[key] / 1e3:.1f}" for key in ("bytes-up", "bytes-down")),
            client["last"],
        ]
        for client in run["traffic"]
    ]
    table = narrow_table(
        ["client", "last answer"], ["kB up", "kB down", "last message"], rows=rows,
        title=f"clients of run {run['run']}",
    )  # fmt: skip
    return [table, *reasons((client["name"], client["outcome"]) for client in run["traffic"])]


def _time_left(run: Mapping[str, Any]) -> str:
    if run["phase"] in ("finished", "failed"):
        return ""
    left = f"about {run['seconds-left']:.0f} s" if run["seconds-left"] is not None else "known after a round"
    return f"{left}; this phase ends by {run['phase-ends']}" if run["phase-ends"] else left
