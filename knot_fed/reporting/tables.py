"""The tables of a run, for the terminal."""

from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

COLUMNS = (
    ("sd", "SD ↓"),
    ("sd_calibrated", "SD cal. ↓"),
    ("w1", "W1 ↓"),
    ("accuracy", "accuracy ↑"),
    ("macro_f1", "macro-F1 ↑"),
    ("ece", "ECE ↓"),
)

_READ = ("task", "student", "domains", "clients", "distillation", "fedavg")


def table_facts(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a summary that `summary_table` reads."""
    return {key: summary[key] for key in _READ if key in summary}


def summary_table(summary: dict[str, Any]) -> Group:
    """Return two tables: metrics before and after the run by domain, and the clients."""
    return Group(_metrics_table(summary), _clients_table(summary))


def _metrics_table(summary: dict[str, Any]) -> Table:
    table = Table(title=f"{summary['task']}: {method_of(summary)}", caption="before → after")
    table.add_column("domain", no_wrap=True)
    for _, heading in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("examples", justify="right")
    for name, metrics in sorted(summary["domains"].items()):
        table.add_row(name, *_cells(metrics))
    for client in unmeasured_clients(summary):
        table.add_row(client["name"], "not measured")
    table.add_section()
    if summary["student"]["before"] and summary["student"]["after"]:
        table.add_row("mean", *_cells(summary["student"]), style="bold")
    return table


def unmeasured_clients(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the clients that took part and have no metrics; each tells why under `unmeasured`."""
    return [
        client for client in summary["clients"] if client.get("unmeasured") and client["name"] not in summary["domains"]
    ]


def client_state(client: dict[str, Any], unmeasured: list[dict[str, Any]]) -> str:
    """Tell what became of a client, the same in every table: its answers, and its metrics if it gave none."""
    return f"{client['status']}; not measured: {client['unmeasured']}" if client in unmeasured else client["status"]


def method_of(summary: dict[str, Any]) -> str:
    """Tell in a line how the student was trained."""
    if "fedavg" in summary:
        return "federated averaging, {rounds} round(s) of {epochs} epoch(s)".format(**summary["fedavg"])
    return "{loss} loss, {objective} objective, {weights} weights, {cost} ground cost".format(**summary["distillation"])


def _clients_table(summary: dict[str, Any]) -> Table:
    table = Table(title="clients")
    for heading in ("client", "status"):
        table.add_column(heading)
    for heading in ("examples", "kB up", "kB down", "seconds"):
        table.add_column(heading, justify="right")
    unmeasured = unmeasured_clients(summary)
    for client in summary["clients"]:
        table.add_row(
            client["name"],
            escape(client_state(client, unmeasured)),
            str(client["examples"]),
            f"{client['bytes_up'] / 1e3:.1f}",
            f"{client['bytes_down'] / 1e3:.1f}",
            f"{client['seconds']:.1f}",
        )
    return table


def _cells(metrics: dict[str, Any]) -> list[str]:
    before, after = metrics["before"], metrics["after"]
    return [f"{before[key]:.3f} → {after[key]:.3f}" for key, _ in COLUMNS] + [str(after["examples"])]
