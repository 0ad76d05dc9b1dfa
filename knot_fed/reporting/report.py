"""`report.html` of one run: the claim, what was run, metrics before and after, confusion and calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from knot_fed.reporting.page import Page, PageSection, PageTable, TableCell, number, words, write_page
from knot_fed.reporting.run import details as detail_figures
from knot_fed.reporting.run import figures as run_figures
from knot_fed.reporting.run.claims import result_section
from knot_fed.reporting.run.facts import run_facts
from knot_fed.reporting.run.personal import personal_section
from knot_fed.runs.method import clients_answered, method_of
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import COLUMNS, client_domains, client_state, unmeasured_clients


def write_report(folder: RunFolder) -> None:
    """Write `report.html` from the run's configuration, summary and rounds.

    Raises
    ------
    RunFolderError
        If the run has no readable summary.
    """
    summary, rounds = folder.read_summary(), folder.read_rounds()
    measured = bool(summary["domains"])
    sections = [
        *([result_section(summary)] if measured else []),
        PageSection("What was run", facts=run_facts(summary, folder.read_config())),
        *(_by_domain(summary) if measured else []),
        *personal_section(summary),
        _clients_section(summary, measured),
        *_details(summary),
        *_course(rounds),
    ]
    page = Page(
        title=folder.path.resolve().name,
        subtitle=f"One federated run: {method_of(summary)}",
        sections=sections,
        error=f"The run failed: {summary['error']}" if summary["error"] else "",
    )
    write_page(page, folder.path / "report.html")


def _by_domain(summary: dict[str, Any]) -> list[PageSection]:
    sections = [
        PageSection(
            "Before and after",
            text="SD: distance of the mean prediction from the truth in label space; W1: cost of moving all"
            " probability to the true label. Arrows show which direction is better.",
            tables=[_metrics(summary)],
            figures=run_figures.before_and_after_bars(summary),
        )
    ]
    if client_domains(summary):
        sections.append(
            PageSection(
                "What each client gets",
                text="The student on the private test split of each client, against the student that the run started"
                " from. Whether a client's own teacher serves it better, a sweep tells.",
                figures=run_figures.gain_bars(summary),
            )
        )
    return sections


def _clients_section(summary: dict[str, Any], measured: bool) -> PageSection:
    return PageSection(
        "Clients",
        text=f"{clients_answered(summary)}.",
        tables=[_clients(summary)],
        figures=[run_figures.traffic_bars(summary)] if measured else (),
    )


def _details(summary: dict[str, Any]) -> list[PageSection]:
    details = summary.get("details", {})
    if "after" not in details or not np.sum(details["after"]["confusion"]):
        return []
    of_whom = f"On the server's own test set ({details['domain']})."
    space = detail_figures.label_space(summary)
    return [
        *([PageSection("Label space", text=of_whom, figures=space)] if space else []),
        PageSection("Confusion", text=of_whom, figures=detail_figures.confusions(summary, "after")),
        PageSection("Calibration", text=of_whom, figures=[detail_figures.reliability_curves(summary)]),
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
