"""What taking part gave each client: its teacher alone, the student and its personal model on its own test split."""

from typing import Any

import numpy as np

from knot_fed.reporting.figures import AFTER, BEFORE, INK, ROW, Canvas, shortened
from knot_fed.reporting.page import FigureData, PageSection, PageTable, Picture, TableCell, words
from knot_fed.reporting.run.figures import MEASURED
from knot_fed.runs.tables import COLUMNS

MODELS = (("its teacher alone", BEFORE, "s"), ("the student", INK, "D"), ("its personal model", AFTER, "o"))
SENT = {"pooled": "the pooled soft labels", "student": "the student's predictions"}


def personal_section(summary: dict[str, Any]) -> list[PageSection]:
    """Return the section of the personal models; none if the run made none."""
    personal = summary.get("personal")
    if not personal:
        return []
    found = {name: _models(summary, name) for name in personal["clients"] if "after" in personal["clients"][name]}
    when = "after each round" if personal["when"] == "rounds" else "after the last round"
    text = (
        f"What taking part gave each client: {_told(found)}. The clients distilled {SENT[personal['consensus']]} beside"
        f" their own examples, {when}. Every client measured its models itself, on its own private test split; the"
        " teacher alone is what it would have had without the federation."
    )
    return [
        PageSection(
            "Personal models",
            text=text,
            tables=[_table(found, personal["clients"])],
            figures=[_dumbbells(found, *measured) for measured in MEASURED] if found else (),
        )
    ]


def _models(summary: dict[str, Any], name: str) -> list[dict[str, Any] | None]:
    """Return a client's metrics of each of `MODELS`; None for a student that it did not measure."""
    own = summary["personal"]["clients"][name]
    student = summary["domains"].get(name)
    return [own["before"], student["after"] if student else None, own["after"]]


def _told(found: dict[str, list[dict[str, Any] | None]]) -> str:
    """Return the mean changes, and how many clients gained; a real client's metrics are rounded."""
    if not found:
        return "no client told its metrics"
    parts = []
    for key, axis, better in MEASURED:
        changes = np.array([_value(after, key) - _value(alone, key) for alone, _, after in found.values()])
        gained = int((changes < 0).sum() if better == "lower" else (changes > 0).sum())
        parts.append(f"{axis} {changes.mean():+.3f} in the mean, better for {gained} of {len(changes)}")
    return "; ".join(parts)


def _value(metrics: dict[str, Any] | None, key: str) -> float:
    return float("nan") if metrics is None else float(metrics[key])


def _table(found: dict[str, list[dict[str, Any] | None]], clients: dict[str, Any]) -> PageTable:
    heads = [words("client"), words("model"), *(TableCell(heading) for _, heading in COLUMNS)]
    rows = [
        [words(name), words(label), *(_cell(metrics, key) for key, _ in COLUMNS)]
        for name, models in found.items()
        for (label, *_), metrics in zip(MODELS, models, strict=True)
    ]
    rows += [
        [words(name), words(told["reason"]), *[TableCell("not measured")] * len(COLUMNS)]
        for name, told in clients.items()
        if "reason" in told
    ]
    return PageTable("Each client's own metrics, on its own private test split", heads, rows)


def _cell(metrics: dict[str, Any] | None, key: str) -> TableCell:
    if metrics is None:
        return TableCell("not measured")
    return TableCell(f"{metrics[key]:.3f}", repr(metrics[key]))


def _dumbbells(found: dict[str, list[dict[str, Any] | None]], key: str, axis: str, better: str) -> Picture:
    """Draw each client's models as marks on one line, joined from the teacher alone to the personal model."""
    values = {name: [_value(metrics, key) for metrics in models] for name, models in found.items()}
    with Canvas(height=1.3 + ROW * len(values)) as canvas:
        axes, places = canvas.axes, range(len(values))
        for place, (alone, _, personal) in zip(places, values.values(), strict=True):
            axes.plot([alone, personal], [place, place], color=INK, linewidth=1.2)
        for model, (label, colour, marker) in enumerate(MODELS):
            axes.plot(
                [models[model] for models in values.values()], places, marker, color=colour, markersize=6.5,
                linestyle="none", label=label, markerfacecolor="none" if label == "the student" else colour,
            )  # fmt: skip
        axes.set_yticks(places, [shortened(name) for name in values])
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.1)
        axes.grid(axis="x")
        axes.set_xlabel(f"{axis} ({better} is better)")
        canvas.legend_above(columns=3)
    told = "; ".join(f"{name} {alone:.3f} to {personal:.3f}" for name, (alone, _, personal) in values.items())
    return canvas.picture(
        f"personal-{key}".replace("_", "-"),
        f"{axis} of each client, from its teacher alone to its personal model: {told}.",
        f"{axis} on each client's own test split: the line joins its teacher alone and its personal model; {better}"
        " is better.",
        FigureData(["client", *(label for label, *_ in MODELS)], [[name, *row] for name, row in values.items()]),
    )
