"""The mean, median or trimmed mean of the teachers' soft labels, and how far the teachers agree."""

import numpy as np
from jaxtyping import Float

from knot_fed.types import SoftLabels


def pool_soft_labels(
    soft_labels: Float[np.ndarray, "clients examples classes"],
    weights: Float[np.ndarray, "clients examples"],
    *,
    pooling: str = "mean",
    trim: float = 0.2,
) -> SoftLabels:
    """Average the teachers' soft labels on each text.

    Parameters
    ----------
    soft_labels
        One distribution for each teacher and text.
    weights
        As `client_weights` gives them; read by `mean` only.
    pooling
        `mean`: `sum_k w_k[t] q_k[t]`, added up in the order given. `median` or `trimmed-mean`, label by label and
        unweighted, tolerate a minority of teachers that send anything (Yin et al. 2018, for gradients); rows are
        then brought back onto the simplex. Where a row has no mass left, as where all teachers name another label
        with certainty, the weighted mean stands in.
    trim
        Of `trimmed-mean`, in (0, 0.5): share of the teachers cut off at each end, at least one and at most all but
        one or two.

    Returns
    -------
    pooled
        float64 rows on the simplex.

    Examples
    --------
    >>> teachers = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.25, 0.75]]])
    >>> pool_soft_labels(teachers, np.array([[0.5], [0.5], [0.0]])).tolist()
    [[0.5, 0.5]]
    >>> pool_soft_labels(teachers, np.full((3, 1), 1 / 3), pooling="median").tolist()
    [[0.25, 0.75]]
    """
    mean = np.zeros(soft_labels.shape[1:])
    for teacher, weight in zip(soft_labels, weights, strict=True):
        mean += weight[:, None] * teacher
    if pooling == "mean":
        return mean
    centre = middle_of_teachers(soft_labels, trim=0.5 if pooling == "median" else trim)
    mass = centre.sum(axis=1, keepdims=True)
    pooled: SoftLabels = np.where(mass > 0, centre / np.where(mass > 0, mass, 1.0), mean)
    return pooled


def middle_of_teachers(
    soft_labels: Float[np.ndarray, "clients examples classes"], *, trim: float
) -> Float[np.ndarray, "examples classes"]:
    """Return the mean over teachers, label by label, without the lowest and the highest share; 0.5: the median.

    Values lie between the lowest and the highest of the honest teachers as long as no more teachers than are cut off
    at one end are not honest. Rows need not sum to 1.
    """
    teachers = len(soft_labels)
    cut = min(max(1, int(trim * teachers)), (teachers - 1) // 2)
    middle: Float[np.ndarray, "examples classes"] = np.sort(soft_labels, axis=0)[cut : teachers - cut].mean(axis=0)
    return middle


def agreement_weights(
    soft_labels: Float[np.ndarray, "clients examples classes"],
    weights: Float[np.ndarray, "clients examples"],
    pooled: SoftLabels,
    *,
    power: float,
) -> Float[np.ndarray, "examples"]:
    """Weigh the texts by how far the teachers agree: `(1 - sum_k w_k TV(q_k, pooled))^power`, brought to a mean of 1.

    Parameters
    ----------
    soft_labels, weights, pooled
        As above; TV is the total variation, in [0, 1].
    power
        >= 0; 0 makes all texts count the same.

    Examples
    --------
    >>> teachers = np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    >>> weights = np.full((2, 2), 0.5)
    >>> agreement_weights(teachers, weights, pool_soft_labels(teachers, weights), power=2.0).round(3).tolist()
    [1.6, 0.4]
    """
    variations = np.abs(soft_labels - pooled).sum(axis=2) / 2
    agreement = np.clip(1 - (weights * variations).sum(axis=0), 0.0, 1.0) ** power
    shares: Float[np.ndarray, examples] = agreement / agreement.mean() if agreement.any() else np.ones(len(pooled))
    return shares
