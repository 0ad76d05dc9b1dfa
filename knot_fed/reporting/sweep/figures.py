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
    Bars,
    Canvas,
    DotRow,
    dot_rows,
    grouped_bars,
    shortened,
)
from knot_fed.reporting.page import FigureData, Picture
from knot_fed.runs.method import weighting_in_words
from knot_fed.runs.results import AFTER, BEFORE, FEDAVG, SETTINGS
from knot_fed.runs.statistics import CENTRALISED, ENSEMBLE, half_interval
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
MOST_LINES = 40
TEACHER = "teacher "


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
            for line in shown[shown["line"] == FEDAVG].to_dict("records"):
                axes.annotate(
                    f"FedAvg {line[x] / 1e6:,.1f} MB", (line[x], line[y]), xytext=(-7, 7), textcoords="offset points",
                    ha="right", fontsize=8.5,
                )  # fmt: skip
        axes.grid()
        axes.set_xlabel(AXES[x])
        axes.set_ylabel(AXES[y])
        canvas.figure.legend(handles=_legend(shown, colours), loc="outside upper left", ncols=3, columnspacing=1.0)
    columns = ["line", *SETTINGS, "name", "seeds", *(key for axis in (x, y) for key in (axis, f"{axis}_half"))]
    kept = [column for column in columns if column in shown]
    data = FigureData(kept, shown[kept].to_numpy(object).tolist())
    return canvas.picture(f"{x}-and-{y}".replace("_", "-"), description, caption, data)


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
    """Draw SD and macro-F1 of each domain, with seeds as dots: initial student, students of each loss, baselines."""
    domains = sorted(set(frame["domain"]) - {MEAN})
    groups = [(BEFORE, INK, frame["line"] == BEFORE)]
    after = frame["line"] == AFTER
    groups += [
        (f"{loss} loss", colour, after & (frame["loss"] == loss)) for loss, colour in _loss_colours(frame).items()
    ]
    groups += [(name, colour, frame["line"] == name) for name, colour in ((ENSEMBLE, GREY), (CENTRALISED, LINE))]
    pictures = []
    for measure, axis in (("sd", AXES["sd"]), ("macro_f1", AXES["macro_f1"])):
        seeds = {name: _by_seed(frame[rows], domains, measure) for name, _, rows in groups if rows.any()}
        bars = {
            name: Bars(
                colour, [float(np.mean(values)) if values else float("nan") for values in seeds[name]], seeds[name]
            )
            for name, colour, _ in groups
            if name in seeds
        }
        told = "; ".join(
            f"{name}: " + ", ".join(f"{d} {v:.3f}" for d, v in zip(domains, held.values, strict=True))
            for name, held in bars.items()
        )
        pictures.append(
            grouped_bars(
                domains, bars, axis, name=f"{measure}-by-domain".replace("_", "-"),
                description=f"Bars of {measure} by domain. {told}.",
                caption="Means over the seeds (dots), and over all cells of a loss.",
                data=FigureData(
                    ["domain", "line", "mean", "by seed"],
                    [[domain, name, held.values[row], " ".join(map(repr, held.dots[row]))]
                     for row, domain in enumerate(domains) for name, held in bars.items()],
                ),
            )
        )  # fmt: skip
    return pictures


def _by_seed(rows: pd.DataFrame, domains: list[str], measure: str) -> list[list[float]]:
    """Return the values of each domain's seeds, each a mean over the cells."""
    means = rows.groupby(["domain", "seed"])[measure].mean()
    return [means.loc[domain].tolist() if domain in means.index.get_level_values(0) else [] for domain in domains]


def seed_dots(frame: pd.DataFrame, lines: pd.DataFrame, further: list[str], measure: str) -> Picture:
    """Draw each cell and baseline as a row: a dot for each seed, their mean and its interval; lowest SD first."""
    means, keys = frame[frame["domain"] == MEAN], ["line", *SETTINGS, *further]
    by_seed = means.groupby([*keys, "seed"])[measure].mean()
    colours = _loss_colours(lines)
    rows, values = [], []
    for line in lines.to_dict("records"):
        found = by_seed.loc[tuple(line[key] for key in keys)]
        cell = line["line"] == AFTER
        label = str(line["name"]) if cell else " ".join(filter(None, (str(line["line"]), str(line["name"]))))
        colour, marker = (colours[line["loss"]], "D") if cell else (INK, REFERENCES.get(line["line"], "s"))
        half, mean = line[f"{measure}_half"], line[measure]
        rows.append(DotRow(label, found.tolist(), mean, mean - half, mean + half, colour, marker))
        values += [[label, seed, value, mean, mean - half, mean + half] for seed, value in found.items()]
    shown = rows[:MOST_LINES]
    more = (
        f" The {len(shown)} of {len(rows)} lines with the lowest SD; its CSV file has all."
        if len(rows) > len(shown)
        else ""
    )
    told = "; ".join(f"{row.label} {row.mean:.3f}" for row in shown)
    return dot_rows(
        shown, AXES[measure], name=f"{measure}-by-seed".replace("_", "-"),
        description=f"{measure} of each line, mean of the domains. {told}.",
        caption=f"Mean of the domains: a dot for each seed, their mean and its 95 % interval.{more}",
        data=FigureData(["line", "seed", measure, "mean", "low", "high"], values),
    )  # fmt: skip


def owner_dots(frame: pd.DataFrame) -> Picture | None:
    """Draw what each data owner gets on its own test split: its teacher alone, the start, and each loss's student."""
    owners = [
        domain for domain in sorted(set(frame["domain"]) - {MEAN}) if (frame["line"] == f"{TEACHER}{domain}").any()
    ]
    rows, values = [], []
    for owner in owners:
        own = frame[frame["domain"] == owner]
        after = own["line"] == AFTER
        kinds = [
            ("own teacher", GREY, "s", own["line"] == f"{TEACHER}{owner}"),
            (BEFORE, INK, "x", own["line"] == BEFORE),
        ]
        kinds += [
            (f"{loss} loss", colour, "D", after & (own["loss"] == loss))
            for loss, colour in _loss_colours(frame).items()
        ]
        for name, colour, marker, held in kinds:
            by_seed = own[held].groupby("seed")["sd"].mean()
            if len(by_seed):
                mean, half = float(by_seed.mean()), half_interval(by_seed.to_numpy(np.float64))
                rows.append(
                    DotRow(f"{owner}: {name}", by_seed.tolist(), mean, mean - half, mean + half, colour, marker)
                )
                values += [[owner, name, seed, value] for seed, value in by_seed.items()]
    if not rows:
        return None
    told = "; ".join(f"{row.label} {row.mean:.3f}" for row in rows)
    return dot_rows(
        rows, AXES["sd"], name="sd-by-owner", description=f"SD on each owner's own test split. {told}.", longest=40,
        caption="Each owner's own test split: its own teacher alone (square), the student before (cross) and after"
        " (diamonds, means over all cells of a loss); dots are seeds, lines 95 % intervals.",
        data=FigureData(["owner", "model", "seed", "sd"], values),
    )  # fmt: skip


def gap_bars(lines: pd.DataFrame) -> Picture | None:
    """Draw the share of the gap that each cell closed; None if there is no baseline."""
    cells = lines[(lines["line"] == AFTER) & lines["closed_sd"].notna()]
    if cells.empty:
        return None
    shown = cells.head(MOST_CELLS)
    closed = [f"{name} {share:.2f}" for name, share in zip(shown["name"], shown["closed_sd"], strict=True)]
    return grouped_bars(
        shown["name"].tolist(),
        {"in SD": Bars(BLUE, shown["closed_sd"].tolist()),
         "in macro-F1": Bars(VERMILLION, shown["closed_macro_f1"].tolist())},
        "share of the gap closed", name="gap-closed", longest=30,
        description=f"Share of the gap closed in SD: {'; '.join(closed)}.",
        caption="From the initial student (0) to the centralised student, or else to the teachers' ensemble (1);"
        f" the {len(shown)} cells of lowest SD.",
        data=FigureData(
            ["cell", "closed in SD", "closed in macro-F1"],
            cells[["name", "closed_sd", "closed_macro_f1"]].to_numpy(object).tolist(),
        ),
    )  # fmt: skip
