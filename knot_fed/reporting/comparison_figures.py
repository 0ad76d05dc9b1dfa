"""The figures of several runs or of a sweep."""

from collections.abc import Hashable, Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from knot_fed.reporting.figures import (
    BLUE,
    GREEN,
    INK,
    LINE,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Canvas,
    grouped_bars,
    shortened,
)
from knot_fed.reporting.page import Picture
from knot_fed.runs.method import weighting_in_words
from knot_fed.runs.results import AFTER, BEFORE, FEDAVG
from knot_fed.runs.statistics import CENTRALISED, ENSEMBLE
from knot_fed.types import MEAN

LOSSES = {"ot": BLUE, "entropy": VERMILLION, "kl": GREEN}
OTHER_LOSSES = (ORANGE, SKY, PURPLE)
WEIGHTS = {
    "uniform": "o",
    "size": "s",
    "confidence": "^",
    "histogram-confidence": "v",
    "certainty": "p",
    "density": "h",
}
GREY = "#8c8c8c"
REFERENCES = {BEFORE: "x", ENSEMBLE: "*", CENTRALISED: "P", FEDAVG: "X"}
AXES = {
    "sd": "Semantic Distance (lower is better)",
    "macro_f1": "macro-F1 (higher is better)",
    "bytes": "bytes by client and run, up and down",
}
MOST_CELLS = 16


def scatter(lines: pd.DataFrame, x: str, y: str, *, description: str, caption: str) -> Picture:
    """Draw each cell and baseline as a point; metrics have 95 % intervals, bytes a logarithmic axis."""
    with Canvas(height=4.6) as canvas:
        axes = canvas.axes
        shown = lines[lines["line"].isin([AFTER, *REFERENCES]) & lines[x].notna() & lines[y].notna()]
        colours = _loss_colours(lines)
        for line in shown.to_dict("records"):
            cell = line["line"] == AFTER
            colour = colours[line["loss"]] if cell else INK
            axes.errorbar(
                line[x], line[y], xerr=_half(line, x), yerr=_half(line, y), color=colour, linewidth=1, markersize=8,
                marker=WEIGHTS.get(line["weights"], "D") if cell else REFERENCES[line["line"]],
                markerfacecolor="none" if line["objective"] == "per-teacher" else colour,
            )  # fmt: skip
        if x == "bytes":
            axes.set_xscale("log")
            axes.margins(x=0.15)
            decades = np.log10(shown[x].max() / shown[x].min())
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.3 else (1,)))
            axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid()
        axes.set_xlabel(AXES[x])
        axes.set_ylabel(AXES[y])
        canvas.figure.legend(handles=_legend(shown, colours), loc="outside upper left", ncols=3, columnspacing=1.0)
    return canvas.picture(description, caption)


def _half(line: Mapping[Hashable, Any], measure: str) -> float | None:
    half = line.get(f"{measure}_half", np.nan)
    return None if np.isnan(half) else half


def _loss_colours(table: pd.DataFrame) -> dict[str, str]:
    losses = sorted(table.loc[table["line"] == AFTER, "loss"].unique())
    others = cycle(OTHER_LOSSES)
    return {loss: LOSSES.get(loss) or next(others) for loss in losses}


def _legend(shown: pd.DataFrame, colours: dict[str, str]) -> list[Line2D]:
    cells = shown[shown["line"] == AFTER]
    losses = [
        Line2D([], [], color=colour, linewidth=4, label=shortened(f"{loss} loss")) for loss, colour in colours.items()
    ]
    weights = [_mark(WEIGHTS.get(name, "D"), weighting_in_words(name)) for name in sorted(cells["weights"].unique())]
    if "per-teacher" in set(cells["objective"]):
        weights.append(_mark("o", "per-teacher", fill="none"))
    references = [_mark(marker, name) for name, marker in REFERENCES.items() if name in set(shown["line"])]
    return [*losses, *weights, *references]


def _mark(marker: str, label: str, *, fill: str = INK) -> Line2D:
    return Line2D(
        [], [], color=INK, marker=marker, markerfacecolor=fill, markersize=7, linestyle="none", label=shortened(label)
    )


def domain_bars(frame: pd.DataFrame) -> list[Picture]:
    """Draw SD and macro-F1 of each domain: initial student, mean of each loss over its cells, and baselines."""
    domains = sorted(set(frame["domain"]) - {MEAN})
    groups = [(BEFORE, INK, frame["line"] == BEFORE)]
    after = frame["line"] == AFTER
    groups += [
        (f"{loss} loss", colour, after & (frame["loss"] == loss)) for loss, colour in _loss_colours(frame).items()
    ]
    groups += [(name, colour, frame["line"] == name) for name, colour in ((ENSEMBLE, GREY), (CENTRALISED, LINE))]
    pictures = []
    for measure, axis in (("sd", AXES["sd"]), ("macro_f1", AXES["macro_f1"])):
        bars = {
            name: (colour, frame[rows].groupby("domain")[measure].mean().reindex(domains).tolist())
            for name, colour, rows in groups
            if rows.any()
        }
        told = "; ".join(
            f"{name}: " + ", ".join(f"{d} {v:.3f}" for d, v in zip(domains, values, strict=True))
            for name, (_, values) in bars.items()
        )
        pictures.append(
            grouped_bars(
                domains, bars, axis, description=f"Bars of {measure} by domain. {told}.",
                caption="Means over the seeds, and over all cells of a loss.",
            )
        )  # fmt: skip
    return pictures


def gap_bars(lines: pd.DataFrame) -> Picture | None:
    """Draw the share of the gap that each cell closed; None if there is no baseline."""
    cells = lines[(lines["line"] == AFTER) & lines["closed_sd"].notna()].head(MOST_CELLS)
    if cells.empty:
        return None
    closed = [f"{name} {share:.2f}" for name, share in zip(cells["name"], cells["closed_sd"], strict=True)]
    return grouped_bars(
        cells["name"].tolist(),
        {"in SD": (BLUE, cells["closed_sd"].tolist()), "in macro-F1": (VERMILLION, cells["closed_macro_f1"].tolist())},
        "share of the gap closed",
        description=f"Share of the gap closed in SD: {'; '.join(closed)}.",
        caption="From the initial student (0) to the centralised student, or else to the teachers' ensemble (1);"
        f" the {len(cells)} cells of lowest SD.",
        longest=30,
    )
