"""The report that compares several runs or the cells of a sweep."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from knot_fed.reporting.page import (
    Page,
    PageSection,
    PageTable,
    Picture,
    TableCell,
    number,
    verdict_cell,
    words,
    write_page,
)
from knot_fed.reporting.sweep.claims import result_section
from knot_fed.reporting.sweep.figures import domain_bars, gap_bars, owner_dots, scatter, seed_dots
from knot_fed.runs.results import AFTER, COMPARISON, FEDAVG, GAINED, GAINS, MEASURES, SETTINGS, Results
from knot_fed.runs.statistics import summarise_lines
from knot_fed.runs.tables import COLUMNS
from knot_fed.types import MEAN

TASK = "task"


def write_comparison(results: Results, file: Path) -> None:
    """Write the report: for each task its claims first, then what was run, then all else by task.

    Raises
    ------
    RunFolderError
        If the file cannot be written.
    """
    after = results.frame[results.frame["line"] == AFTER]
    tasks = sorted(set(after[TASK])) if TASK in results.further_keys else [""]
    parts = [_sections(results, task) for task in tasks]
    sections = [
        *(first for first, *_ in parts),
        PageSection("What was run", facts=results.facts),
        *(section for _, *others in parts for section in others),
    ]
    seeds = after["seed"].nunique()
    settings = len(after[[*SETTINGS, *results.further_keys]].drop_duplicates())
    subtitle = f"{settings} setting(s) side by side, {seeds} seed(s)"
    write_page(Page(results.title, sections, subtitle), file)


def _sections(results: Results, task: str) -> list[PageSection]:
    frame, comparison = (
        table[table[TASK] == task] if task and TASK in table else table for table in (results.frame, results.comparison)
    )
    after = frame[frame["line"] == AFTER]
    further = _differing(after, results.further_keys)
    keys = _differing(after, [*SETTINGS, *further])
    shared = ", ".join(f"{key} {after[key].iloc[0]}" for key in SETTINGS if key not in keys)
    lines = summarise_lines(frame, further)
    lines["bytes"] = lines["bytes_up"] + lines["bytes_down"]
    gap, owners = gap_bars(lines), owner_dots(frame)
    figures = [scatter(lines, "sd", "macro_f1", description="SD against macro-F1 of each cell and baseline.",
                       caption="Means over the domains; lines are 95 % intervals over the seeds."),
               *([gap] if gap else [])]  # fmt: skip
    found = result_section(_heading(task, "Result"), frame, comparison, further)
    parts = [
        PageSection(
            _heading(task, "Every seed"),
            figures=[seed_dots(frame, lines, further, measure) for measure in ("sd", "macro_f1")],
        ),
        PageSection(_heading(task, "SD and macro-F1"), figures=figures),
        PageSection(
            _heading(task, "All cells"),
            text=f"All share {shared}." if shared else "",
            tables=[_cells_table(lines, keys)],
        ),
        *([_differences(comparison, task)] if len(comparison) else []),
        PageSection(_heading(task, "By domain"), figures=domain_bars(frame)),
    ]
    if owners:
        parts.append(PageSection(_heading(task, "What each data owner gets"), figures=[owners]))
    if lines["bytes"].notna().any():
        parts.append(PageSection(_heading(task, "What it costs"), figures=_costs(lines)))
    return [found, *parts]


def _heading(task: str, text: str) -> str:
    return f"{text}, {task}" if task else text


def _costs(lines: pd.DataFrame) -> list[Picture]:
    fedavg = lines[(lines["line"] == FEDAVG) & lines["bytes"].notna()]
    beside = f" FedAvg: {fedavg['bytes'].mean() / 1e6:,.1f} MB." if len(fedavg) else ""
    return [
        scatter(
            lines, "bytes", measure, description=f"Bytes against {name} of each cell.{beside}",
            caption=f"Messages of one client in one run, log axis.{beside}",
        )
        for measure, name in (("sd", "SD"), ("macro_f1", "macro-F1"))
    ]  # fmt: skip


def _differing(table: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if table[key].nunique() > 1]


def _cells_table(lines: pd.DataFrame, keys: Sequence[str]) -> PageTable:
    heads = [*map(words, ("line", *keys)), TableCell("seeds"), *(TableCell(heading) for _, heading in COLUMNS)]
    heads += [TableCell(text) for text in ("SD gap closed", "F1 gap closed", "kB up", "kB down", "seconds")]
    gains = [*GAINS] if lines[[*GAINS]].notna().any(axis=None) else []
    heads += [TableCell(GAINS[gain][-1]) for gain in gains]
    rows = [
        [
            *(words(line[key]) for key in ("line", *keys)),
            number(line["seeds"], 0),
            *(number(line[measure], suffix=_plus_minus(line[f"{measure}_half"])) for measure in MEASURES),
            number(line["closed_sd"], 2),
            number(line["closed_macro_f1"], 2),
            number(line["bytes_up"] / 1e3, 1),
            number(line["bytes_down"] / 1e3, 1),
            number(line["seconds"], 1),
            *(number(line[gain], signed=True) for gain in gains),
        ]
        for line in lines.to_dict("records")
    ]
    caption = "Mean of the domains over the seeds, ± 95 % interval; traffic and time of one client"
    return PageTable(caption + (f"; {GAINED}" if gains else ""), heads, rows)


def _plus_minus(half: float) -> str:
    return "" if pd.isna(half) else f" ± {half:.3f}"


def _differences(comparison: pd.DataFrame, task: str) -> PageSection:
    mean = comparison["domain"] == MEAN
    return PageSection(
        _heading(task, "Differences from the entropy loss"),
        text="Paired by seed, against the entropy loss of the same weighting and objective."
        " There is a verdict where the interval excludes zero.",
        tables=[
            _differences_table(comparison[mean], "On the mean of the domains", folded=False),
            _differences_table(comparison[~mean], "By domain", folded=True),
        ],
    )


def _differences_table(comparison: pd.DataFrame, caption: str, *, folded: bool) -> PageTable:
    further = [key for key in comparison.columns if key not in COMPARISON]
    keys = ["loss", *_differing(comparison, [*SETTINGS[1:], *further, "domain"]), "metric"]
    heads = [*map(words, keys), *(TableCell(head) for head in ("seeds", "difference", "low", "high")), words("verdict")]
    rows = [
        [
            *(words(row[key]) for key in keys),
            number(row["seeds"], 0),
            *(number(row[key], signed=True) for key in ("difference", "low", "high")),
            verdict_cell(row["verdict"]),
        ]
        for row in comparison.to_dict("records")
    ]
    return PageTable(caption, heads, rows, folded=folded)
