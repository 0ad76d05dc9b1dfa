"""The claims of a sweep: paired differences between losses, and from the baselines, with intervals over the seeds."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from knot_fed.reporting.figures import BLUE, INK, VERMILLION, DotRow, dot_rows
from knot_fed.reporting.page import MARKS, Claim, FigureData, PageSection, Picture
from knot_fed.runs.results import AFTER, BEFORE, FEDAVG
from knot_fed.runs.statistics import BASELINE, loss_differences, start_differences
from knot_fed.types import MEAN

NAMES = {
    "sd": "SD", "sd_calibrated": "SD calibrated", "w1": "W1", "accuracy": "accuracy", "macro_f1": "macro-F1",
    "ece": "ECE",
}  # fmt: skip
CLAIMED = ("sd", "macro_f1")
COLOURS = {"better": BLUE, "worse": VERMILLION}
MOST_SETTINGS = 60
COMPARED = ("domain", "metric", "seeds", "difference", "low", "high", "verdict")
"""Columns of a comparison that are not settings."""


def result_section(heading: str, frame: pd.DataFrame, comparison: pd.DataFrame, further: Sequence[str]) -> PageSection:
    """Return the first section: each loss against the entropy loss, then against the start and FedAvg."""
    losses = loss_differences(frame, further)
    claims, figures = [], []
    for loss, found in losses.groupby("loss") if len(losses) else ():
        claims += [
            Claim(f"{loss} minus {BASELINE} in {NAMES[row['metric']]}: {interval_in_words(row)}", str(row["verdict"]))
            for row in found[found["metric"].isin(CLAIMED)].to_dict("records")
        ]
        figures.append(_by_metric(str(loss), found))
    for line, name in ((BEFORE, "the initial student"), (FEDAVG, "FedAvg")):
        claims += [
            Claim(f"{row['loss']} minus {name} in SD: {interval_in_words(row)}", row["verdict"])
            for row in start_differences(frame, further, line, "sd").to_dict("records")
        ]
    figures += _by_setting(comparison)
    return PageSection(heading, claims=claims, text=_scope(frame, comparison, losses), figures=figures)


def interval_in_words(row: Mapping[Hashable, Any]) -> str:
    """Return a difference with its interval, the test and what was averaged."""
    found = {key: row[key] for key in ("difference", "low", "high", "seeds", "settings")}
    several = f", mean of {found['settings']} settings" if found["settings"] != 1 else ""
    if found["seeds"] == 1:
        return f"{found['difference']:+.3f}, one seed, so no interval{several}."
    interval = f"[{found['low']:+.3f}, {found['high']:+.3f}]"
    return f"{found['difference']:+.3f} {interval}, paired t over {found['seeds']} seeds{several}."


def _scope(frame: pd.DataFrame, comparison: pd.DataFrame, losses: pd.DataFrame) -> str:
    """Say what the intervals cover, and how many single settings are decided."""
    told = [
        "On the mean of the domains; intervals are 95 %, over the seeds on the same data and test texts: they cover no"
        " other data set. Undecided: the interval includes zero."
    ]
    sd = comparison[(comparison["domain"] == MEAN) & (comparison["metric"] == "sd")]
    for loss, rows in sd.groupby("loss"):
        if len(rows) > 1:
            counts = rows["verdict"].value_counts()
            listed = ", ".join(f"{verdict} in {counts.get(verdict, 0)}" for verdict in MARKS)
            told.append(f"In SD, {loss} is {listed} of {len(rows)} single settings, not corrected for their number.")
    if not len(losses):
        told.append(f"No run of the {BASELINE} loss matches the others, so no losses are compared.")
    if frame.loc[frame["line"] == AFTER, "seed"].nunique() == 1:
        told.append("There is one seed: no interval can be given.")
    return " ".join(told)


def _by_metric(loss: str, found: pd.DataFrame) -> Picture:
    rows = [
        DotRow(
            NAMES[row["metric"]], row["by_seed"], row["difference"], row["low"], row["high"],
            COLOURS.get(row["verdict"], INK), note=MARKS[row["verdict"]],
        )
        for row in found.to_dict("records")
    ]  # fmt: skip
    told = "; ".join(f"{row.label} {row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in rows)
    columns = ("metric", "seeds", "settings", "difference", "low", "high", "verdict")
    data = FigureData(
        [*columns, "differences by seed"],
        [[*(row[key] for key in columns), " ".join(map(repr, row["by_seed"]))] for row in found.to_dict("records")],
    )
    return dot_rows(
        rows, f"{loss} minus {BASELINE}", zero=True, name=f"difference-{loss}", data=data,
        description=f"Differences of the {loss} loss from the entropy loss: {told}.",
        caption=f"{loss} minus {BASELINE} by metric: a dot for each seed, the mean (diamond) and its 95 % interval."
        " Below zero is better in SD, W1 and ECE, above it in accuracy and macro-F1.",
    )  # fmt: skip


def _by_setting(comparison: pd.DataFrame) -> list[Picture]:
    found = comparison[(comparison["domain"] == MEAN) & (comparison["metric"] == "sd")]
    if len(found) < 2:
        return []
    keys = [key for key in found.columns if key not in COMPARED and (found[key].nunique() > 1 or key == "loss")]
    shown = found.sort_values("difference", kind="stable").head(MOST_SETTINGS)
    rows = [
        DotRow(
            " ".join(str(row[key]) for key in keys if row[key]), [], row["difference"], row["low"], row["high"],
            COLOURS.get(row["verdict"], INK), note=MARKS[row["verdict"]],
        )
        for row in shown.to_dict("records")
    ]  # fmt: skip
    told = "; ".join(f"{row.label} {row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in rows)
    columns = [*keys, "seeds", "difference", "low", "high", "verdict"]
    more = f" The {len(shown)} of {len(found)} settings that are lowest." if len(shown) < len(found) else ""
    return [
        dot_rows(
            rows, f"difference in SD from the {BASELINE} loss", zero=True, name="difference-in-sd-by-setting",
            description=f"Differences in SD by setting: {told}.",
            caption=f"SD minus that of the {BASELINE} loss, by setting, with 95 % intervals; below zero is better."
            f"{more}",
            data=FigureData(columns, [[row[key] for key in columns] for row in found.to_dict("records")]),
        )
    ]  # fmt: skip
