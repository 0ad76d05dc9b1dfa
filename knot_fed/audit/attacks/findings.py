"""Results of an attack: measured values with intervals, and the scores behind a ROC curve."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from knot_fed.audit.attacks.membership import Members, Observed, leave_one_out

COLUMNS = ("seed", "client", "attack", "case", "measure", "value", "low", "high", "count")
FALSE_POSITIVE_RATES = {"tpr_at_0.1%": 0.001, "tpr_at_1%": 0.01}
RESAMPLES = 400
Scores = tuple[Float[np.ndarray, "models candidates"], Members]


@dataclass(frozen=True, slots=True)
class Effort:
    """Strength of the attacker."""

    shadows: int  # teachers for membership inference; each is attacked with the others as its shadows
    candidates: int  # private training texts whose membership is inferred, at most half of all
    nearest: int  # transfer texts read for each candidate that is not in the transfer set itself
    canaries: int  # of the one-run audit, at most as many as test texts
    references: int  # further teachers with canaries, from which the auditor learns what to expect
    delta: float  # of the lower bound on epsilon


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval, which is NaN if there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Finding:
    """One measured value of a client in one case, over `count` trials."""

    client: str
    case: str
    measure: str
    estimate: Estimate
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """All findings of one attack on one run, and by case the scores with the true membership."""

    found: tuple[Finding, ...]
    scores: Mapping[str, Scores] = field(default_factory=dict)


def membership_findings(
    client: str, observations: Mapping[str, Observed], members: Members, *, generator: np.random.Generator
) -> Findings:
    """Run LiRA, online and offline, on the observations of each case, and measure its success."""
    scores: dict[str, Scores] = {}
    found = []
    for case, seen in observations.items():
        for kind in ("online", "offline"):
            name, scored = f"{case}, {kind}", leave_one_out(seen, members, online=kind == "online")
            scores[name] = scored, members
            measured = {
                measure: true_positive_rate(scored, members, false_positive_rate=rate)
                for measure, rate in FALSE_POSITIVE_RATES.items()
            } | {"auc": area_under_curve(scored, members, generator=generator)}
            found += [Finding(client, name, measure, value, members.size) for measure, value in measured.items()]
    return Findings(tuple(found), scores)


def true_positive_rate(
    scores: Float[np.ndarray, "*trials"], members: Bool[np.ndarray, "*trials"], *, false_positive_rate: float
) -> Estimate:
    """Return the share of members above the threshold that this share of non-members, in [0, 1), passes.

    A member that ties with the threshold does not count. Below one over the number of non-members no false positive is
    allowed. The interval is Clopper and Pearson's for a fixed threshold and independent trials.

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
    scores: Float[np.ndarray, "models candidates"], members: Members, *, generator: np.random.Generator
) -> Estimate:
    """Return the probability that a member scores above a non-member, counting ties half; 0.5 is chance.

    The interval is a percentile bootstrap over candidates, since the scores of one candidate are correlated.
    """
    columns = generator.integers(scores.shape[1], size=(RESAMPLES, scores.shape[1]))
    drawn = [_area(scores[:, chosen].ravel(), members[:, chosen].ravel()) for chosen in columns]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(_area(scores.ravel(), members.ravel()), float(low), float(high))


def _area(scores: Float[np.ndarray, "trials"], members: Bool[np.ndarray, "trials"]) -> float:
    return float(roc_auc_score(members, scores)) if 0 < members.sum() < members.size else math.nan
