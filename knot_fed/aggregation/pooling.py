"""Pooling of the teachers' soft labels, and text weights from the agreement between teachers."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.special import entr, softmax

from knot_fed.errors import ConfigError
from knot_fed.types import SoftLabels

_Teachers = Float[np.ndarray, "clients examples classes"]
_Centre = Float[np.ndarray, "examples classes"]

POOLINGS: dict[str, Callable[[_Teachers, float], _Centre] | None] = {
    "mean": None,
    "era": None,
    "median": lambda soft_labels, _: middle_of_teachers(soft_labels, trim=0.5),
    "trimmed-mean": lambda soft_labels, trim: middle_of_teachers(soft_labels, trim=trim),
}
"""Unweighted centres, of soft labels and `weights.trim`, by the names of `weights.pooling`; None: by weighted mean."""


def pool_soft_labels(
    soft_labels: Float[np.ndarray, "clients examples classes"],
    weights: Float[np.ndarray, "clients examples"],
    *,
    pooling: str = "mean",
    trim: float = 0.2,
    temperature: float = 0.1,
) -> SoftLabels:
    """Pool the teachers' soft labels on each text into float64 rows on the simplex.

    Parameters
    ----------
    soft_labels
        One distribution per teacher and text.
    weights
        As `client_weights` returns them; only `mean` and `era` read them.
    pooling
        `mean`: `sum_k w_k[t] q_k[t]`, summed in the given order. `median`, `trimmed-mean`: label by label and
        unweighted, then normalised; they tolerate a minority of faulty teachers (Yin et al. 2018, for gradients). A row
        without any mass left, e.g. if all teachers are certain of different labels, is the weighted mean.
    trim
        Of `trimmed-mean`, in (0, 0.5): share of the teachers cut off at each end, at least one, leaving one or two.
    temperature
        Of `era`, which is `sharpen` of the mean.

    Raises
    ------
    ConfigError
        If the pooling is unknown.

    Examples
    --------
    >>> teachers = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.25, 0.75]]])
    >>> pool_soft_labels(teachers, np.array([[0.5], [0.5], [0.0]])).tolist()
    [[0.5, 0.5]]
    >>> pool_soft_labels(teachers, np.full((3, 1), 1 / 3), pooling="median").tolist()
    [[0.25, 0.75]]
    """
    if pooling not in POOLINGS:
        raise ConfigError(f"weights.pooling = {pooling!r}: unknown pooling; use {', '.join(POOLINGS)}")
    mean = np.zeros(soft_labels.shape[1:])
    for teacher, weight in zip(soft_labels, weights, strict=True):
        mean += weight[:, None] * teacher
    centre_of = POOLINGS[pooling]
    if centre_of is None:
        return sharpen(mean, temperature) if pooling == "era" else mean
    centre = centre_of(soft_labels, trim)
    mass = centre.sum(axis=1, keepdims=True)
    pooled: SoftLabels = np.where(mass > 0, centre / np.where(mass > 0, mass, 1.0), mean)
    return pooled


def sharpen(mean: SoftLabels, temperature: float) -> SoftLabels:
    """Return `softmax(mean / T)`, the entropy reduction aggregation of DS-FL (Itahara et al. 2020, arXiv 2008.06180).

    The mean soft label itself, not its logarithm, is divided by T; the paper uses T = 0.1. So T = 0.1 does not make a
    row of two labels one-hot: the ratio of its entries is at most `exp(1 / T)`.

    Examples
    --------
    >>> sharpen(np.array([[0.6, 0.4]]), 0.1).round(3).tolist()
    [[0.881, 0.119]]
    """
    rows: SoftLabels = softmax(mean / temperature, axis=1)
    return rows


def kept_by_entropy(pooled: SoftLabels, *, most: float) -> Float[np.ndarray, "examples"]:
    """Return 1 for each text whose pooled soft label has an entropy of at most `most` times `ln L`, and 0 for others.

    The server's selector of Selective-FD (Shao et al. 2024): an ambiguous ensemble teaches nothing.

    Examples
    --------
    >>> kept_by_entropy(np.array([[0.5, 0.5], [0.9, 0.1]]), most=0.8).tolist()
    [0.0, 1.0]
    """
    if most >= 1:
        return np.ones(len(pooled))
    kept: Float[np.ndarray, examples] = (entropy_shares(pooled) <= most).astype(np.float64)
    return kept


def entropy_shares(pooled: SoftLabels) -> Float[np.ndarray, "examples"]:
    """Return the entropy of each soft label as a share of the largest, `ln L`."""
    shares: Float[np.ndarray, examples] = entr(np.maximum(pooled, 0.0)).sum(axis=1) / np.log(pooled.shape[1])
    return shares


def middle_of_teachers(soft_labels: _Teachers, *, trim: float) -> _Centre:
    """Return the mean over teachers, label by label, without the lowest and highest share; 0.5: the median.

    Values lie within those of the honest teachers if no more are dishonest than are cut off at one end. Rows need not
    sum to 1.
    """
    teachers = len(soft_labels)
    cut = min(max(1, int(trim * teachers)), (teachers - 1) // 2)
    middle: _Centre = np.sort(soft_labels, axis=0)[cut : teachers - cut].mean(axis=0)
    return middle


def agreement_weights(
    soft_labels: Float[np.ndarray, "clients examples classes"],
    weights: Float[np.ndarray, "clients examples"],
    pooled: SoftLabels,
    *,
    power: float,
) -> Float[np.ndarray, "examples"]:
    """Weight texts by the teachers' agreement, `(1 - sum_k w_k TV(q_k, pooled))^power`, scaled to a mean of 1.

    TV is the total variation distance, in [0, 1]. A power of 0 gives all texts equal weights.

    Examples
    --------
    >>> teachers = np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    >>> weights = np.full((2, 2), 0.5)
    >>> agreement_weights(teachers, weights, pool_soft_labels(teachers, weights), power=2.0).round(3).tolist()
    [1.6, 0.4]
    """
    return shares_of(agreements(soft_labels, weights, pooled, power=power))


def agreements(
    soft_labels: Float[np.ndarray, "clients examples classes"],
    weights: Float[np.ndarray, "clients examples"],
    pooled: SoftLabels,
    *,
    power: float,
) -> Float[np.ndarray, "examples"]:
    """Return the agreement of `agreement_weights` before it is scaled."""
    variations = np.abs(soft_labels - pooled).sum(axis=2) / 2
    agreement: Float[np.ndarray, examples] = np.clip(1 - (weights * variations).sum(axis=0), 0.0, 1.0) ** power
    return agreement


def shares_of(
    agreement: Float[np.ndarray, "examples"], kept: Float[np.ndarray, "examples"] | None = None
) -> Float[np.ndarray, "examples"]:
    """Scale the agreements on the texts that are kept to a mean of 1 over all; texts are equal if none has any.

    `kept` is 1 for each text that teaches and 0 for others, whose share is 0; None: all.

    Examples
    --------
    >>> shares_of(np.array([0.2, 0.6, 0.9]), np.array([1.0, 1.0, 0.0])).tolist()
    [0.75, 2.25, 0.0]
    """
    kept = np.ones(len(agreement)) if kept is None else kept
    counted = agreement * kept if (agreement * kept).any() else kept
    shares: Float[np.ndarray, examples] = counted / counted.mean() if counted.any() else np.zeros(len(agreement))
    return shares
