"""The tables of `knot-fed status`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from knot_fed.runs.narrow import cause, narrow_table, plain, reasons


def status_tables(found: Mapping[str, Any], *, with_nodes: bool) -> Group:
    """Return the tables of the runs, after one of the nodes if `with_nodes`."""
    columns = ("name", "owner", "since", "status", "node")
    rows = [[node[key] for key in columns] for node in found["nodes"]]
    nodes = [narrow_table(columns[:3], columns[3:], rows=rows, title="nodes")] if with_nodes else []
    return Group(*nodes, *run_tables(found["runs"]))


def run_tables(runs: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Return two tables of the runs, the reasons of failed runs, and a table of the newest run's clients."""
    phases = [
        [run["run"], run["status"], run["phase"], f"{run['round']} of {run['rounds']}" if run["rounds"] else ""]
        for run in runs
    ]
    amounts = [[run["run"], _time_left(run), *_kilobytes(run)] for run in runs]
    return [
        narrow_table(["run", "status", "phase"], ["round"], rows=phases, title="runs"),
        narrow_table(["run", "time left"], ["kB up", "kB down"], rows=amounts),
        *(plain(f"run {run['run']}: {run['failure']}") for run in runs if run["failure"]),
        *(part for run in runs[:1] for part in _traffic(run)),
    ]


def _traffic(run: Mapping[str, Any]) -> list[RenderableType]:
    clients = run["traffic"]
    rows = [[client["name"], cause(client["outcome"]), *_kilobytes(client), client["last"]] for client in clients]
    table = narrow_table(
        ["client", "last answer"], ["kB up", "kB down", "last message"], rows=rows,
        title=f"clients of run {run['run']}",
    )  # fmt: skip
    return [table, *reasons((client["name"], client["outcome"]) for client in clients)]


def _kilobytes(counted: Mapping[str, Any]) -> list[str]:
    return [f"{counted[key] / 1e3:.1f}" for key in ("bytes-up", "bytes-down")]


def _time_left(run: Mapping[str, Any]) -> str:
    if run["phase"] in ("finished", "failed"):
        return ""
    left = f"about {run['seconds-left']:.0f} s" if run["seconds-left"] is not None else "known after a round"
    return f"{left}; this phase ends by {run['phase-ends']}" if run["phase-ends"] else left
