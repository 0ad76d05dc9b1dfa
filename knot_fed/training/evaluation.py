"""Metrics of soft labels against true labels: Semantic Distance, W1-to-truth, accuracy, macro-F1, calibration."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import f1_score

from knot_fed.labels import LabelSpace
from knot_fed.training.calibration import temper
from knot_fed.types import Metrics, SoftLabels

BINS = 15
RESAMPLES = 1000
BLOCK = 1 << 20
"""Texts drawn at a time."""
LEVEL = 95
"""Per cent of resamples within an interval."""
BOOTSTRAPPED = ("sd", "w1", "accuracy", "macro_f1")


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """A non-empty bin of the top probability: its mean, the share of correct answers, and their number."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationDetails:
    """Mean predictions by true label (rows; 0 if absent), confusion counts, and a reliability diagram."""

    mean_predictions: Float[np.ndarray, "classes classes"]
    confusion: Int[np.ndarray, "classes classes"]
    reliability: tuple[ReliabilityBin, ...]

    def to_mapping(self) -> dict[str, object]:
        """Return the details for `summary.json`."""
        return {
            "mean_predictions": self.mean_predictions.tolist(),
            "confusion": self.confusion.tolist(),
            "reliability": [asdict(held) for held in self.reliability],
        }


def evaluate_classifier(
    soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"], label_space: LabelSpace, *, temperature: float = 1.0
) -> Metrics:
    """Compute all metrics; SD, W1 and macro-F1 are means over the labels that occur.

    The temperature is that of `sd_calibrated` only, fitted by `fit_temperature` on other examples. The metrics of an
    empty test set are 0.

    Examples
    --------
    >>> evaluate_classifier(np.eye(3)[[0, 2]], np.array([0, 1]), LabelSpace.preset("nli")).sd
    0.5
    """
    if len(labels) == 0:
        return Metrics(sd=0.0, sd_calibrated=0.0, w1=0.0, accuracy=0.0, macro_f1=0.0, ece=0.0, examples=0)
    predicted = soft_labels.argmax(axis=1)
    present = np.unique(labels)
    return Metrics(
        sd=_macro(semantic_distances(soft_labels, labels, label_space), labels),
        sd_calibrated=_macro(semantic_distances(temper(soft_labels, temperature), labels, label_space), labels),
        w1=_macro(distances_to_truth(soft_labels, labels, label_space), labels),
        accuracy=float((predicted == labels).mean()),
        macro_f1=float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0)),
        ece=calibration_error(soft_labels, labels),
        examples=len(labels),
    )


def mean_metrics(metrics: Sequence[Metrics]) -> Metrics:
    """Average over domains with equal weights, and sum the examples."""
    fields = ("sd", "sd_calibrated", "w1", "accuracy", "macro_f1", "ece")
    means = {field: float(np.mean([getattr(domain, field) for domain in metrics])) for field in fields}
    return Metrics(**means, examples=sum(domain.examples for domain in metrics))


def semantic_distances(
    soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"], label_space: LabelSpace
) -> Float[np.ndarray, "examples"]:
    """Return `|| sum_k p_k x_k - x_c ||`, the distance of the mean prediction from the truth (KNOT, COLING 2022).

    Labels without coordinates are the corners of a simplex with unit edges: `|| p - e_c || / sqrt(2)`, in [0, 1].
    """
    if not label_space.ordered:
        right = soft_labels[np.arange(len(labels)), labels]
        squared = ((soft_labels**2).sum(axis=1) - 2 * right + 1) / 2
        to_corner: Float[np.ndarray, examples] = np.sqrt(np.maximum(squared, 0.0))
        return to_corner
    coordinates = label_space.coordinates
    distances: Float[np.ndarray, examples] = np.linalg.norm(soft_labels @ coordinates - coordinates[labels], axis=1)
    return distances


def distances_to_truth(
    soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"], label_space: LabelSpace
) -> Float[np.ndarray, "examples"]:
    """Return `sum_k p_k || x_k - x_c ||`, the cost of moving all mass to the truth; an upper bound of SD."""
    distances: Float[np.ndarray, examples] = (soft_labels * label_space.distances[labels]).sum(axis=1)
    return distances


def calibration_error(soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"]) -> float:
    """Return the expected calibration error over 15 equal bins of the top probability (Guo et al. 2017)."""
    bins = reliability_bins(soft_labels, labels)
    return sum(held.count * abs(held.accuracy - held.confidence) for held in bins) / len(labels)


def reliability_bins(soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"]) -> tuple[ReliabilityBin, ...]:
    """Return the non-empty ones of 15 equal bins of the top probability, for a reliability diagram."""
    top = soft_labels.max(axis=1).astype(np.float64)
    right = soft_labels.argmax(axis=1) == labels
    bins = np.clip((top * BINS).astype(np.int64), 0, BINS - 1)
    return tuple(
        ReliabilityBin(float(top[held].mean()), float(right[held].mean()), int(held.sum()))
        for held in (bins == number for number in np.unique(bins))
    )


def evaluation_details(
    soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"], label_space: LabelSpace
) -> EvaluationDetails:
    """Return which labels are confused, and how reliable the confidence is.

    Examples
    --------
    >>> evaluation_details(np.eye(3)[[0, 2]], np.array([0, 1]), LabelSpace.preset("nli")).confusion.tolist()
    [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    """
    truth = np.eye(len(label_space))[labels]
    counts = truth.sum(axis=0)[:, None]
    predicted = np.eye(len(label_space))[soft_labels.argmax(axis=1)]
    return EvaluationDetails(
        mean_predictions=truth.T @ soft_labels / np.maximum(counts, 1),
        confusion=(truth.T @ predicted).astype(np.int64),
        reliability=reliability_bins(soft_labels, labels),
    )


def bootstrap_intervals(
    before: SoftLabels, after: SoftLabels, labels: Int[np.ndarray, "examples"], label_space: LabelSpace, *, seed: int
) -> dict[str, int | dict[str, list[float]]]:
    """Return 95 % percentile intervals of metrics before and after, and of their difference, over the test texts.

    Both are measured on the same resamples, so that the difference is paired. The intervals cover the choice of the
    test texts, and no other seed or data set. An empty test set has none.

    Returns
    -------
    intervals
        `resamples`, and for `sd`, `w1`, `accuracy` and `macro_f1` the bounds of `before`, `after` and `difference`.

    Examples
    --------
    >>> before, after, labels = np.eye(3)[[0, 2]], np.eye(3)[[0, 1]], LabelSpace.preset("nli")
    >>> bootstrap_intervals(before, after, np.array([0, 1]), labels, seed=1)["accuracy"]["difference"]
    [0.0, 1.0]
    """
    if not len(before) == len(after) == len(labels):
        raise ValueError(f"{len(before)} and {len(after)} answers for {len(labels)} texts")
    if not len(labels):
        return {}
    generator, texts = np.random.default_rng(seed), len(labels)
    truth = np.eye(len(label_space))[labels]
    told = [_per_text(soft_labels, labels, label_space) for soft_labels in (before, after)]
    measured = []
    block = max(1, BLOCK // texts)
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        places = generator.integers(texts, size=(count, texts)) + texts * np.arange(count)[:, None]
        drawn = np.bincount(places.ravel(), minlength=count * texts).reshape(count, texts).astype(np.float64)
        measured.append(np.stack([_resampled(drawn, truth, *values) for values in told]))
    found = np.concatenate(measured, axis=1)
    compared = {"before": found[0], "after": found[1], "difference": found[1] - found[0]}
    edges = [(100 - LEVEL) / 2, (100 + LEVEL) / 2]
    bounds = {when: np.percentile(values, edges, axis=0) for when, values in compared.items()}
    intervals = {
        metric: {when: bounds[when][:, place].tolist() for when in bounds} for place, metric in enumerate(BOOTSTRAPPED)
    }
    return {"resamples": RESAMPLES, **intervals}


_PerText: TypeAlias = tuple[
    Float[np.ndarray, "examples"], Float[np.ndarray, "examples"], Float[np.ndarray, "examples classes"]
]


def _per_text(soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"], label_space: LabelSpace) -> _PerText:
    """Return SD, W1 and the predicted label of each text, as a row of zeros and a one."""
    distances = semantic_distances(soft_labels, labels, label_space).astype(np.float64)
    costs = distances_to_truth(soft_labels, labels, label_space).astype(np.float64)
    return distances, costs, np.eye(len(label_space))[soft_labels.argmax(axis=1)]


def _resampled(
    drawn: Float[np.ndarray, "resamples examples"],
    truth: Float[np.ndarray, "examples classes"],
    distances: Float[np.ndarray, "examples"],
    costs: Float[np.ndarray, "examples"],
    predicted: Float[np.ndarray, "examples classes"],
) -> Float[np.ndarray, "resamples metrics"]:
    """Return the metrics of `BOOTSTRAPPED` where each text counts as often as it was drawn."""
    support, right = drawn @ truth, drawn @ (truth * predicted)
    absent = support == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        of_label = [drawn @ (truth * values[:, None]) / support for values in (distances, costs)]
        f1 = 2 * right / (support + drawn @ predicted)
    sd, w1, macro_f1 = (np.where(absent, 0.0, values).sum(axis=1) / (~absent).sum(axis=1) for values in (*of_label, f1))
    return np.stack([sd, w1, right.sum(axis=1) / drawn.sum(axis=1), macro_f1], axis=1)


def _macro(values: Float[np.ndarray, "examples"], labels: Int[np.ndarray, "examples"]) -> float:
    return float(np.mean([values[labels == label].mean() for label in np.unique(labels)]))
