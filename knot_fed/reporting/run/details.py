"""The figures of a run on the server's own test set: label space, confusion, calibration."""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba

from knot_fed.labels import label_distances
from knot_fed.reporting.figures import AFTER, BEFORE, BLUE, INK, LINE, Canvas, shortened
from knot_fed.reporting.page import FigureData, Picture

MOST_NUMBERED_LABELS = 12
HEAT = "#0072b3"
"""Nearly `BLUE`, but the same in both schemes, so that white stays legible on it."""
SHADES = LinearSegmentedColormap.from_list("shades", [to_rgba(HEAT, 0.0), to_rgba(HEAT, 1.0)])


def label_space(summary: dict[str, Any]) -> list[Picture]:
    """Draw the mean prediction of each true label in label space, if that has one or two dimensions."""
    coordinates = np.asarray(summary["coordinates"])
    draw = {1: _label_line, 2: _label_plane}.get(coordinates.shape[1])
    if draw is None:
        return []
    return [
        draw(summary, np.asarray(summary["details"][when]["mean_predictions"]), coordinates, when)
        for when in ("before", "after")
    ]


def _label_line(
    summary: dict[str, Any],
    mean_predictions: Float[np.ndarray, "classes classes"],
    coordinates: Float[np.ndarray, "classes 1"],
    when: str,
) -> Picture:
    labels, places = summary["labels"], coordinates[:, 0]
    means = mean_predictions @ places
    with Canvas(height=1.3 + 0.5 * len(labels)) as canvas:
        axes = canvas.axes
        for row in np.flatnonzero(mean_predictions.sum(axis=1)):
            axes.axhline(float(row), color=LINE, linewidth=0.6, zorder=0)
            axes.scatter(places, [row] * len(places), s=500 * mean_predictions[row], color=BLUE, alpha=0.6, linewidth=0)
            axes.plot([places[row]] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=2)
            axes.plot(means[row], row, "D", color=BEFORE, markersize=6)
        axes.set_yticks(range(len(labels)), [shortened(name) for name in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_ylabel("true label")
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.margins(x=0.08)
        axes.set_xlabel(f"coordinate in label space, {when}")
    told = _told(labels, mean_predictions, means[:, None])
    return canvas.picture(
        f"label-space-{when}",
        f"Label space {when}: {told}.",
        f"{when.capitalize()}: the mean prediction of each true label. Bar: the truth; discs: probability on each"
        " label; diamond: their mean. Nearer the bar is better.",
        _space_data(labels, mean_predictions, coordinates),
    )


def _label_plane(
    summary: dict[str, Any],
    mean_predictions: Float[np.ndarray, "classes classes"],
    coordinates: Float[np.ndarray, "classes 2"],
    when: str,
) -> Picture:
    labels, means = summary["labels"], mean_predictions @ coordinates
    axis_names = ("valence", "arousal") if summary["task"] == "emotion" else ("first coordinate", "second coordinate")
    with Canvas(height=4.4) as canvas:
        axes = canvas.axes
        reach = max(1.0, float(np.linalg.norm(coordinates, axis=1).max()))
        turn = np.linspace(0, 2 * np.pi, 181)
        axes.plot(reach * np.cos(turn), reach * np.sin(turn), color=LINE, linewidth=0.8)
        axes.axhline(0, color=LINE, linewidth=0.6)
        axes.axvline(0, color=LINE, linewidth=0.6)
        axes.scatter(
            coordinates[:, 0], coordinates[:, 1], s=70, facecolor="none", edgecolor=INK, linewidth=1.4, zorder=3
        )
        for row in np.flatnonzero(mean_predictions.sum(axis=1)):
            axes.plot(*np.stack([coordinates[row], means[row]]).T, color=BEFORE, linewidth=1.2)
            axes.plot(*means[row], "D", color=BEFORE, markersize=5, zorder=4)
        for name, (x, y) in zip(labels, coordinates, strict=True):
            above = y > 0
            axes.annotate(
                shortened(name), (x, y), xytext=(0, 8 if above else -8), textcoords="offset points", ha="center",
                va="bottom" if above else "top",
            )  # fmt: skip
        axes.set_aspect("equal")
        axes.set_xlim(-1.25 * reach, 1.25 * reach)
        axes.set_ylim(-1.15 * reach, 1.2 * reach)
        axes.set_xlabel(f"{axis_names[0]}, {when}")
        axes.set_ylabel(axis_names[1])
    told = _told(labels, mean_predictions, means)
    return canvas.picture(
        f"label-space-{when}",
        f"Label space {when}: {told}.",
        f"{when.capitalize()}: from each label (ring) to the mean prediction of its examples (diamond)."
        " Shorter is better.",
        _space_data(labels, mean_predictions, coordinates),
    )


def _space_data(
    labels: list[str],
    mean_predictions: Float[np.ndarray, "classes classes"],
    coordinates: Float[np.ndarray, "classes dimensions"],
) -> FigureData:
    axes = range(coordinates.shape[1])
    places = [f"truth {axis + 1}" for axis in axes] + [f"mean prediction {axis + 1}" for axis in axes]
    rows = [
        [labels[row], *np.concatenate([coordinates[row], mean_predictions[row] @ coordinates, mean_predictions[row]])]
        for row in np.flatnonzero(mean_predictions.sum(axis=1))
    ]
    return FigureData(["true label", *places, *(f"probability of {label}" for label in labels)], rows)


def _told(
    labels: list[str],
    mean_predictions: Float[np.ndarray, "classes classes"],
    means: Float[np.ndarray, "classes dimensions"],
) -> str:
    present = np.flatnonzero(mean_predictions.sum(axis=1))
    return "; ".join(f"{labels[row]} predicted at {', '.join(f'{x:.2f}' for x in means[row])}" for row in present)


def reliability_curves(summary: dict[str, Any]) -> Picture:
    """Draw accuracy against confidence, before and after, in the bins of the ECE."""
    domain = summary["domains"][summary["details"]["domain"]]
    with Canvas(height=4.2) as canvas:
        axes = canvas.axes
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="perfect")
        for when, colour, marker in (("before", BEFORE, "s"), ("after", AFTER, "o")):
            bins = summary["details"][when]["reliability"]
            x, y = [held["confidence"] for held in bins], [held["accuracy"] for held in bins]
            shares = np.array([held["count"] for held in bins]) / max(1, sum(held["count"] for held in bins))
            axes.plot(x, y, color=colour, linewidth=1.5)
            axes.scatter(x, y, s=14 + 240 * shares, color=colour, marker=marker, alpha=0.8, linewidth=0, label=when)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_aspect("equal")
        axes.grid()
        axes.set_xlabel("confidence (top probability)")
        axes.set_ylabel("accuracy")
        handles, names = axes.get_legend_handles_labels()
        axes.legend(handles, names, loc="upper left", markerscale=0.7)
    errors = " to ".join(f"{domain[when]['ece']:.3f}" for when in ("before", "after"))
    keys = ("confidence", "accuracy", "count")
    rows = [
        [when, *(held[key] for key in keys)]
        for when in ("before", "after")
        for held in summary["details"][when]["reliability"]
    ]
    return canvas.picture(
        "calibration",
        f"Accuracy against confidence before and after; expected calibration error from {errors}.",
        f"Reliability: larger marks hold more texts; below the dotted line the student is overconfident. ECE {errors}.",
        FigureData(["when", *keys], rows),
    )


def confusions(summary: dict[str, Any], when: str) -> list[Picture]:
    """Draw the confusion matrix normalised by true label, plain and weighted by distance in label space."""
    labels, coordinates = summary["labels"], np.asarray(summary["coordinates"], dtype=np.float64)
    counts = np.asarray(summary["details"][when]["confusion"], dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    costs = shares * label_distances(coordinates)
    worst = np.unravel_index(costs.argmax(), costs.shape)
    worst_told = f"{labels[worst[0]]} predicted as {labels[worst[1]]} costs most ({costs[worst]:.2f})"
    rows = [
        [labels[row], labels[column], int(counts[row, column]), float(shares[row, column]), float(costs[row, column])]
        for row, column in np.ndindex(*counts.shape)
    ]
    data = FigureData(["true label", "predicted label", "texts", "share", "share times distance"], rows)
    return [
        _heatmap(
            costs, labels, f"confusion-by-distance-{when}", f"Confusion weighted by distance, {when}: {worst_told}.",
            f"{when.capitalize()}: share times distance in label space; {worst_told}.", data,
        ),
        _heatmap(
            shares, labels, f"confusion-{when}",
            f"Confusion {when}; accuracy {counts.trace() / max(1, counts.sum()):.3f}.",
            f"{when.capitalize()}: share of each true label's texts.", data,
        ),
    ]  # fmt: skip


def _heatmap(
    values: Float[np.ndarray, "classes classes"],
    labels: list[str],
    name: str,
    description: str,
    caption: str,
    data: FigureData,
) -> Picture:
    names = [shortened(name, 14) for name in labels]
    with Canvas(height=4.2) as canvas:
        axes = canvas.axes
        axes.pcolormesh(values, cmap=SHADES, vmin=0, vmax=max(float(values.max()), 1e-9), edgecolor=LINE, linewidth=0.5)
        if len(labels) <= MOST_NUMBERED_LABELS:
            _write_values(axes, values)
        middle = np.arange(len(labels)) + 0.5
        axes.set_xticks(middle, names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(middle, names)
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.set_xlabel("predicted label")
        axes.set_ylabel("true label")
    return canvas.picture(name, description, caption, data)


def _write_values(axes: Axes, values: Float[np.ndarray, "classes classes"]) -> None:
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 0.6 * values.max() else INK
        axes.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
