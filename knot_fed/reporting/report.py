"""`report.html` of one run: configuration, metrics before and after, confusion and calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from knot_fed.files import shorten_paths
from knot_fed.reporting import run_figures
from knot_fed.reporting.page import Facts, Page, PageSection, PageTable, TableCell, number, words, write_page
from knot_fed.runs.method import clients_answered, method_of
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import COLUMNS, client_state, unmeasured_clients


def write_report(folder: RunFolder) -> None:
    """Write `report.html` from the run's configuration, summary and rounds.

    Raises
    ------
    RunFolderError
        If the run has no readable summary.
    """
    summary, rounds = folder.read_summary(), folder.read_rounds()
    page = Page(
        title=folder.path.resolve().name,
        facts=_facts(summary, folder.read_config()),
        sections=[*_results(summary), *_details(summary), *_course(rounds)],
        error=f"The run failed: {summary['error']}" if summary["error"] else "",
    )
    write_page(page, folder.path / "report.html")


def _facts(summary: dict[str, Any], config: dict[str, Any]) -> Facts:
    method, data = summary.get("distillation", summary.get("fedavg", {})), config.get("data", {})
    models = config.get("teacher", {}).get("models") or config.get("model", "")
    compression = summary["privacy"].get("compression", "none")
    return [
        ("task", f"{summary['task']}: {', '.join(summary['labels'])}"),
        ("method", method_of(summary)),
        ("clients", ", ".join(client["name"] for client in summary["clients"])),
        ("answers", clients_answered(summary)),
        ("models", shorten_paths(str(models))),
        *([] if "fedavg" in summary else [("transfer set", shorten_paths(str(data.get("transfer", ""))))]),
        ("public test set", shorten_paths(str(data.get("public", "")))),
        ("rounds", str(method.get("rounds", config.get("rounds", "")))),
        ("seed", str(summary["seed"])),
        ("time", _time(summary, method["seconds"])),
        *_course_facts(method),
        ("privacy", summary["privacy"]["guarantee"]),
        *([("compression", f"{compression}: fewer bytes, no guarantee")] if compression != "none" else []),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(summary["versions"].items()))),
    ]  # fmt: skip


def _course_facts(method: dict[str, Any]) -> Facts:
    """Describe rounds that left the student unchanged; runs of an earlier version do not record them."""
    if not method.get("unmoved"):
        return []
    unmoved = f"{method['unmoved']} round(s) left the student unchanged: no epoch lowered its held-out loss"
    saturated = f"{method['saturated']:.0%} of the transfer texts have a top probability above .99"
    return [("distillation", f"{unmoved}; {saturated}")]


def _time(summary: dict[str, Any], method: float) -> str:
    """Describe the time of the run; for a resumed one, the method's time covers all its parts."""
    if summary.get("resumed"):
        return f"{summary['wall_seconds']:.0f} s since it was resumed; {method:.1f} s in the method, from its start"
    return f"{summary['wall_seconds']:.0f} s, of them {method:.1f} s in the method"


def _results(summary: dict[str, Any]) -> list[PageSection]:
    if not summary["domains"]:
        return [PageSection("Clients", text=f"{clients_answered(summary)}.", tables=[_clients(summary)])]
    return [
        PageSection(
            "Before and after",
            text="SD: distance of the mean prediction from the truth in label space; W1: cost of moving all"
            " probability to the true label. Arrows show which direction is better.",
            tables=[_metrics(summary)],
            figures=run_figures.before_and_after_bars(summary),
        ),
        PageSection(
            "Clients",
            text=f"{clients_answered(summary)}.",
            tables=[_clients(summary)],
            figures=[run_figures.traffic_bars(summary)],
        ),
    ]


def _details(summary: dict[str, Any]) -> list[PageSection]:
    details = summary.get("details", {})
    if "after" not in details or not np.sum(details["after"]["confusion"]):
        return []
    of_whom = f"On the server's own test set ({details['domain']})."
    return [
        PageSection("Label space", text=of_whom, figures=run_figures.label_space(summary)),
        PageSection("Confusion", text=of_whom, figures=run_figures.confusions(summary, "after")),
        PageSection("Calibration", text=of_whom, figures=[run_figures.reliability_curves(summary)]),
    ]


def _course(rounds: list[dict[str, Any]]) -> list[PageSection]:
    return (
        [PageSection("Course of the distillation", figures=[run_figures.distillation_losses(rounds)])] if rounds else []
    )


def _metrics(summary: dict[str, Any]) -> PageTable:
    heads = [words("domain"), *(TableCell(heading) for _, heading in COLUMNS), TableCell("examples")]
    rows = [_metrics_row(name, metrics) for name, metrics in sorted(summary["domains"].items())]
    rows += [
        [words(client["name"]), *[TableCell("not measured")] * len(COLUMNS), TableCell("")]
        for client in unmeasured_clients(summary)
    ]
    return PageTable(
        "Metrics before → after; a column sorts by the value after",
        heads,
        rows,
        foot=_metrics_row("mean of the domains", summary["student"]),
    )


def _metrics_row(name: str, metrics: dict[str, Any]) -> Sequence[TableCell]:
    before, after = metrics["before"], metrics["after"]
    values = [TableCell(f"{before[key]:.3f} → {after[key]:.3f}", repr(after[key])) for key, _ in COLUMNS]
    return [words(name), *values, number(after["examples"], 0)]


def _clients(summary: dict[str, Any]) -> PageTable:
    unmeasured = unmeasured_clients(summary)
    heads = [words("client"), words("status"), *map(TableCell, ("examples", "kB up", "kB down", "seconds"))]
    rows = [
        [
            words(client["name"]),
            words(client_state(client, unmeasured)),
            number(client["examples"], 0),
            number(client["bytes_up"] / 1e3, 1),
            number(client["bytes_down"] / 1e3, 1),
            number(client["seconds"], 1),
        ]
        for client in summary["clients"]
    ]
    return PageTable("What each client answered and how much was sent", heads, rows)
