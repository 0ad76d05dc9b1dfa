"""The page of the price of privacy: a table and frontier plots."""

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.ticker import LogLocator

from knot_fed.config import MECHANISMS
from knot_fed.files import shorten_paths
from knot_fed.reporting.figures import BLUE, GREEN, VERMILLION, Canvas
from knot_fed.reporting.page import (
    Claim,
    Facts,
    FigureData,
    Page,
    PageSection,
    PageTable,
    Picture,
    TableCell,
    number,
    words,
    write_page,
)
from knot_fed.runs.statistics import verdict_of

COLOURS = {"ot": BLUE, "entropy": VERMILLION}
MARKS = dict(zip(MECHANISMS, "*os^vP", strict=False))
"""Markers of the first mechanisms in the registry; all others share one."""
DASHES = ("-", "--", ":", "-.")
TELLING = ["study", "mechanism", "loss", "settings"]
COLUMNS = (
    ("sd", "SD", 3),
    ("macro_f1", "macro-F1", 3),
    ("gain_kept", "gain kept", 2),
    ("bytes_up", "bytes up", 0),
    ("audited_epsilon", "ε audited ≥", 2),
    ("tpr_own_row", "TPR at 1 %, own row", 3),
    ("tpr_nearest_rows", "nearest rows", 3),
    ("tpr_student", "student", 3),
    ("mix_kl", "KL of the mix", 3),
    ("mix_kl_pooled", "pooled", 3),
    ("lead", "lead in SD", 3),
)
SCOPE = (
    "Intervals are 95 %, over the seeds on the same data. Undecided: the interval includes zero. A claimed epsilon"
    " bounds every attack; the attacks here bound it from below only."
)
LEAKS = {
    "epsilon": "claimed epsilon",
    "tpr_own_row": "true-positive rate at 1 % false positives, own row",
    "mix_kl": "divergence of the inferred label mix (nats)",
}


def guarantee(line: Mapping[Hashable, Any]) -> str:
    """Return unit, epsilon and delta in words."""
    if not math.isfinite(line["epsilon"]):
        return "no guarantee"
    return f"{line['unit']}: ε = {line['epsilon']:g}, δ = {line['delta']:g}"


def write_frontier(
    table: pd.DataFrame, file: Path, names: Sequence[str], notes: Sequence[str], facts: Facts = ()
) -> None:
    """Write the page with notes, facts, table and plots; raises RunFolderError if the file cannot be written."""
    named = [*(head for head in ("study", "settings") if table[head].any()), "mechanism", "loss", "guarantee"]
    heads = [*map(words, named), *(TableCell(heading) for _, heading, _ in COLUMNS)]
    rows = [
        [
            *(words(str({**line, "guarantee": guarantee(line)}[head])) for head in named),
            *(number(line[key], digits, suffix=_half(line, key)) for key, _, digits in COLUMNS),
        ]
        for line in table.to_dict("records")
    ]
    figures = [
        _frontier(table, leak, measure) for measure in ("sd", "macro_f1") for leak in LEAKS if table[leak].notna().any()
    ]
    text = (
        "The audited bound is the largest over the seeds; rates and divergences are means. Gain kept is the decrease of"
        " SD relative to that without a mechanism; lead is how much lower SD is than with the entropy loss."
    )
    compared = [("from", ", ".join(names)), *(("note", shorten_paths(note)) for note in notes), *facts]
    sections = [
        PageSection("Result", claims=_claims(table), text=SCOPE),
        PageSection("What was compared", facts=compared),
        PageSection("Guarantee, price and attacks", text=text, tables=[PageTable("Means over the seeds", heads, rows)]),
        PageSection("Frontiers", figures=figures),
    ]
    write_page(Page("The price of privacy", sections, "What each guarantee costs, and what attacks still find"), file)


def _claims(table: pd.DataFrame) -> list[Claim]:
    """Return the lead over the entropy loss of each row that has one, with its interval over the seeds."""
    claims = []
    for line in table[table["lead"].notna()].to_dict("records"):
        half, who = line["lead_half"], ", ".join(filter(None, (line["study"], line["mechanism"], line["settings"])))
        lead = f"{line['loss']} minus entropy in SD, {who} ({guarantee(line)}): {-line['lead']:+.3f}"
        if pd.isna(half):
            claims.append(Claim(f"{lead}, one seed, so no interval."))
        else:
            low, high = -line["lead"] - half, -line["lead"] + half
            told = f"{lead} [{low:+.3f}, {high:+.3f}], paired t over {line['seeds']} seeds."
            claims.append(Claim(told, verdict_of("sd", low, high)))
    return claims


def _frontier(table: pd.DataFrame, leak: str, measure: str) -> Picture:
    """Plot a metric against a claim or leak; points of one mechanism and loss are joined by epsilon."""
    finite = table[table[leak].notna()]
    columns = list(dict.fromkeys([*TELLING, "epsilon", "delta", "seeds", leak, measure, f"{measure}_half"]))
    highest = 2 * max([1.0, *finite.loc[finite[leak].map(math.isfinite), leak]])
    with Canvas(height=4.2) as canvas:
        for (study, mechanism, loss, settings), lines in finite.groupby(TELLING, sort=True):
            ordered = lines.assign(shown=lines[leak].clip(upper=highest)).sort_values("epsilon")
            canvas.axes.errorbar(
                ordered["shown"], ordered[measure], yerr=ordered[f"{measure}_half"].fillna(0.0),
                marker=MARKS.get(str(mechanism), "D"), color=COLOURS.get(str(loss), GREEN), linewidth=1, markersize=7,
                linestyle=DASHES[(ord(str(study or "A")[0]) - ord("A")) % len(DASHES)],
                label=", ".join(filter(None, (str(study), str(mechanism), str(loss), str(settings)))),
            )  # fmt: skip
        if leak == "epsilon":
            canvas.axes.set_xscale("log", base=2)
            ticks = sorted({min(value, highest) for value in finite[leak]})
            canvas.axes.set_xticks(ticks, ["none" if tick == highest else f"{tick:g}" for tick in ticks])
            canvas.axes.minorticks_off()
        elif leak == "tpr_own_row" and (finite[leak] > 0).all():
            canvas.logarithmic("x")
            canvas.axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        canvas.axes.grid()
        canvas.axes.set(xlabel=LEAKS[leak], ylabel="Semantic Distance" if measure == "sd" else "macro-F1")
        canvas.legend_above()
    values = "; ".join(
        f"{' '.join(filter(None, (line[key] for key in TELLING)))} {line[leak]:.3g}: {line[measure]:.3f}"
        for line in finite.to_dict("records")
    )
    return canvas.picture(
        f"{measure}-against-{leak}".replace("_", "-"),
        f"{measure} against {LEAKS[leak]}. {values}.",
        "Points are joined by epsilon; bars are 95 % intervals over the seeds.",
        FigureData(columns, finite[columns].astype(object).where(finite[columns].notna(), None).to_numpy().tolist()),
    )


def shown_leak(line: Mapping[Hashable, Any], key: str, digits: int) -> str:
    """Return a measure with its interval; empty if there is none."""
    return "" if pd.isna(line[key]) else f"{line[key]:.{digits}f}{_half(line, key)}"


def _half(line: Mapping[Hashable, Any], key: str) -> str:
    half = line.get(f"{key}_half", math.nan)
    return "" if pd.isna(half) else f" ± {half:.3f}"
