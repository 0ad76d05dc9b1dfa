"""The tables of a run, for the terminal."""

import io
from collections.abc import Sequence
from html import escape
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from knot_fed.runs.method import clients_answered, method_of
from knot_fed.runs.narrow import cause, narrow_table, plain, reasons, rounded
from knot_fed.system.terminal import WIDTH
from knot_fed.types import MEAN

DISTANCES = (("sd", "SD ↓"), ("sd_calibrated", "SD cal. ↓"), ("w1", "W1 ↓"))
SCORES = (("accuracy", "accuracy ↑"), ("macro_f1", "macro-F1 ↑"), ("ece", "ECE ↓"))
COLUMNS = (*DISTANCES, *SCORES)

COORDINATES = "the labels' coordinates"
"""Geometry of SD and W1 that needs no mention."""

_READ = ("task", "student", "domains", "clients", "distillation", "fedavg", "geometry")


def table_facts(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a summary that `summary_table` reads."""
    return {key: summary[key] for key in _READ if key in summary}


def summary_table(summary: dict[str, Any]) -> Group:
    """Return the method, two tables of metrics by domain before and after the run, and a table of the clients."""
    parts: list[RenderableType] = [plain(f"{summary['task']}: {method_of(summary)}")]
    if summary["domains"]:
        parts.append(_metrics_table(summary, DISTANCES, caption=geometry_note(summary)))
        parts.append(_metrics_table(summary, SCORES, counted=True, caption="before → after"))
    clients, unmeasured = summary["clients"], unmeasured_clients(summary)
    parts.append(_clients_table(clients, unmeasured))
    parts += reasons((client["name"], client_state(client, unmeasured)) for client in clients)
    return Group(*parts, plain(clients_answered(summary)))


def geometry_note(summary: dict[str, Any]) -> str:
    """Say in which geometry SD and W1 are measured, unless it is the labels' own coordinates."""
    told = summary.get("geometry", COORDINATES)
    return "" if told == COORDINATES else f"SD and W1: {told}"


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return `summary_table` as lines of text, without colours."""
    written = io.StringIO()
    Console(file=written, width=WIDTH, color_system=None, force_jupyter=False).print(summary_table(summary))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def summary_html(summary: dict[str, Any]) -> str:
    """Return the method and the table of metrics as HTML, for a notebook."""
    heads = ["domain", *(heading for _, heading in COLUMNS), "examples"]
    rows = [(name, metrics) for name, metrics in sorted(summary["domains"].items())]
    if summary["student"]["before"] and summary["student"]["after"]:
        rows.append((MEAN, summary["student"]))
    head = "".join(f"<th scope='col'>{escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr><th scope='row'>{escape(name)}</th>"
        + "".join(f"<td>{escape(text)}</td>" for text in _cells(metrics, COLUMNS, counted=True))
        + "</tr>"
        for name, metrics in rows
    )
    told = [f"{summary['task']}: {method_of(summary)}", "before → after", geometry_note(summary)]
    caption = escape("; ".join([*filter(None, told), clients_answered(summary)]))
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _metrics_table(
    summary: dict[str, Any], columns: Sequence[tuple[str, str]], *, counted: bool = False, caption: str = ""
) -> Table:
    headings = [heading for _, heading in columns] + ["examples"] * counted
    rows = [[name, *_cells(metrics, columns, counted)] for name, metrics in sorted(summary["domains"].items())]
    rows += [[client["name"], "not measured", *[""] * (len(headings) - 1)] for client in unmeasured_clients(summary)]
    table = narrow_table(["domain"], headings, rows=rows, caption=caption)
    table.add_section()
    if summary["student"]["before"] and summary["student"]["after"]:
        table.add_row(MEAN, *_cells(summary["student"], columns, counted), style="bold")
    return table


def unmeasured_clients(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the clients that took part and have no metrics; `unmeasured` holds the reason."""
    return [
        client for client in summary["clients"] if client.get("unmeasured") and client["name"] not in summary["domains"]
    ]


def client_domains(summary: dict[str, Any]) -> list[str]:
    """Return the clients whose own test split was measured, in order."""
    return sorted({client["name"] for client in summary["clients"]} & set(summary["domains"]))


def client_state(client: dict[str, Any], unmeasured: Sequence[dict[str, Any]]) -> str:
    """Describe the state of a client, with the reason if it has no metrics."""
    return f"{client['status']}; not measured: {client['unmeasured']}" if client in unmeasured else client["status"]


def _cells(metrics: dict[str, Any], columns: Sequence[tuple[str, str]], counted: bool) -> list[str]:
    before, after = metrics["before"], metrics["after"]
    shown = [f"{rounded(before[key])} → {rounded(after[key])}" for key, _ in columns]
    return shown + [str(after["examples"])] * counted


def _clients_table(clients: Sequence[dict[str, Any]], unmeasured: Sequence[dict[str, Any]]) -> Table:
    rows = [
        [
            client["name"],
            cause(client_state(client, unmeasured)),
            client.get("rounds", ""),
            client["examples"],
            f"{client['bytes_up'] / 1e3:.1f}",
            f"{client['bytes_down'] / 1e3:.1f}",
            f"{client['seconds']:.1f}",
        ]
        for client in clients
    ]
    return narrow_table(
        ["client", "status"], ["rounds", "examples", "kB up", "kB down", "seconds"], rows=rows, title="clients"
    )
