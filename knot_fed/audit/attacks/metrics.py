"""How well scores tell members from others: the true-positive rate at few false positives, and the area of the ROC."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the limits of its 95 % interval."""

    value: float
    low: float
    high: float


def true_positive_rate(
    scores: Float[np.ndarray, "*trials"], members: Bool[np.ndarray, "*trials"], *, false_positive_rate: float
) -> Estimate:
    """Return the share of members above the score that at most so many non-members pass.

    The interval is Clopper and Pearson's, the threshold and the trials taken as given.

    Parameters
    ----------
    scores
        Higher means more likely a member; a member whose score ties with the threshold does not count.
    members
        The truth; at least one of each kind.
    false_positive_rate
        In [0, 1). Below one over the number of non-members no false positive is allowed at all.

    Examples
    --------
    >>> members = np.array([True, True, False, False])
    >>> true_positive_rate(np.array([4.0, 1.0, 3.0, 2.0]), members, false_positive_rate=0.01).value
    0.5
    """
    others = np.sort(scores[~members])[::-1]
    threshold = others[int(false_positive_rate * len(others))]
    found, count = int((scores[members] > threshold).sum()), int(members.sum())
    interval = binomtest(found, count).proportion_ci(0.95, method="exact")
    return Estimate(found / count, float(interval.low), float(interval.high))


def area_under_curve(
    scores: Float[np.ndarray, "models candidates"],
    members: Bool[np.ndarray, "models candidates"],
    *,
    generator: np.random.Generator,
) -> Estimate:
    """Return the chance that a member scores above a non-member, ties counting half; 0.5: the scores tell nothing.

    The interval is a percentile bootstrap over candidates, since the scores of one candidate hang together.

    Parameters
    ----------
    scores, members
        Scores, and the truth, of each candidate about each model.
    generator
        Of the bootstrap.
    """
    columns = generator.integers(scores.shape[1], size=(RESAMPLES, scores.shape[1]))
    drawn = [_area(scores[:, chosen].ravel(), members[:, chosen].ravel()) for chosen in columns]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(_area(scores.ravel(), members.ravel()), float(low), float(high))


def _area(scores: Float[np.ndarray, "trials"], members: Bool[np.ndarray, "trials"]) -> float:
    return float(roc_auc_score(members, scores)) if 0 < members.sum() < members.size else float("nan")
