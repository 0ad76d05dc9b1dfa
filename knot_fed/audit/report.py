"""The report of an audit: the findings of each attack, and ROC curves on logarithmic axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from knot_fed.audit.attacks.findings import Scores
from knot_fed.reporting.figures import BLUE, GREEN, LINE, ORANGE, PURPLE, SKY, VERMILLION, Canvas
from knot_fed.reporting.page import (
    Claim,
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

CURVES = ((BLUE, "-"), (BLUE, "--"), (VERMILLION, "-"), (VERMILLION, "--"), (GREEN, "-"), (GREEN, "--"))
MORE_CURVES = ((ORANGE, "-"), (PURPLE, "-"), (SKY, "-"))
HEADINGS = {
    "membership": "Membership, from soft labels",
    "student": "Membership, from the released student",
    "canaries": "Audited lower bound on epsilon",
    "label-mix": "The owner's label mix",
    "poisoning": "Poisoned soft labels",
}
LOWEST_RATE = 1e-4
CLAIMED = {
    ("membership", "tpr_at_1%"): "of the members found in soft labels at 1 % false positives (guessing: 0.010)",
    ("student", "tpr_at_1%"): "of the members found in the student at 1 % false positives (guessing: 0.010)",
}
"""Findings that the report begins with, by attack and measure."""


def summarise_findings(table: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds, in order of appearance; `value` is the mean."""
    keys = ["client", "attack", "case", "measure"]
    grouped = table.groupby(keys, sort=False)["value"].agg(["mean", "min", "max", "count"]).reset_index()
    return grouped.rename(columns={"mean": "value", "min": "lowest", "max": "highest", "count": "seeds"})


def write_audit_report(
    file: Path, table: pd.DataFrame, scores: Mapping[str, Mapping[str, Scores]], facts: Sequence[tuple[str, str]]
) -> None:
    """Write the report on the tidy findings of all seeds; raises RunFolderError if the file cannot be written.

    `scores` holds scores and membership by attack and case, `facts` says what was attacked.
    """
    found = summarise_findings(table)
    attacks = [
        PageSection(
            HEADINGS.get(attack, attack),
            tables=[_table(found[found["attack"] == attack])],
            figures=[roc_figure(scores[attack], attack)] if scores.get(attack) and attack != "canaries" else (),
        )
        for attack in dict.fromkeys(found["attack"])
    ]
    text = (
        "Lowest and highest are over the seeds, and are no interval. An attack that finds nothing proves nothing: a"
        " stronger one may."
    )
    sections = [
        PageSection("Result", claims=_claims(found), text=text),
        PageSection("What was attacked", facts=facts),
        *attacks,
    ]
    write_page(Page("Audit", sections, "Attacks on what a client releases"), file)


def _claims(found: pd.DataFrame) -> list[Claim]:
    """Return the most successful case of each kind of attack."""
    claims = []
    for (attack, measure), words_of in CLAIMED.items():
        rows = found[(found["attack"] == attack) & (found["measure"] == measure)]
        if len(rows):
            worst = rows.sort_values("value", kind="stable").iloc[-1]
            claims.append(
                Claim(
                    f"{HEADINGS[attack]}: {worst['value']:.3f} {words_of}, {worst['case']}, client {worst['client']};"
                    f" {worst['lowest']:.3f} to {worst['highest']:.3f} over {worst['seeds']} seed(s)."
                )
            )
    bounds = found[(found["attack"] == "canaries") & (found["measure"] == "epsilon_lower_bound")]
    if len(bounds):
        seeds = f"the largest of {bounds['seeds'].max()} seed(s)"
        claims.append(Claim(f"{HEADINGS['canaries']}: {bounds['highest'].max():.3f}, {seeds}."))
    return claims


def roc_figure(scores: Mapping[str, Scores], attack: str) -> Picture:
    """Draw the ROC of each case on logarithmic axes, since a low false-positive rate matters most."""
    values: list[list[str | float]] = []
    with Canvas(height=4.4) as canvas:
        axes = canvas.axes
        for (case, (scored, members)), (colour, style) in zip(scores.items(), (*CURVES, *MORE_CURVES), strict=False):
            false, true, _ = roc_curve(members.ravel(), scored.ravel())
            axes.plot(false, true, color=colour, linestyle=style, drawstyle="steps-post", label=case)
            values += [[case, *rates] for rates in zip(false.tolist(), true.tolist(), strict=True)]
        axes.plot([LOWEST_RATE, 1], [LOWEST_RATE, 1], color=LINE, linewidth=1)
        canvas.logarithmic("x", "y")
        axes.set(
            xlim=(LOWEST_RATE, 1), ylim=(LOWEST_RATE, 1), xlabel="false-positive rate", ylabel="true-positive rate"
        )
        axes.grid()
        canvas.legend_above()
    rates = "; ".join(f"{case}: {_rate(*pair):.3f}" for case, pair in scores.items())
    return canvas.picture(
        f"roc-{attack}",
        f"True- against false-positive rate of {attack} inference; at 1 % false positives: {rates}.",
        "All seeds together; the line is random guessing.",
        FigureData(["case", "false-positive rate", "true-positive rate"], values),
    )


def _rate(scores: np.ndarray, members: np.ndarray) -> float:
    false, true, _ = roc_curve(members.ravel(), scores.ravel(), drop_intermediate=False)
    return float(true[false <= 0.01].max())


def _table(found: pd.DataFrame) -> PageTable:
    heads = [words("case"), words("client"), words("measure"), *map(TableCell, ("mean", "lowest", "highest", "seeds"))]
    rows = [
        [
            *(words(row[key]) for key in ("case", "client", "measure")),
            *(number(row[key]) for key in ("value", "lowest", "highest")),
            number(row["seeds"], 0),
        ]
        for row in found.to_dict("records")
    ]
    return PageTable("Mean, lowest and highest over the seeds", heads, rows)
