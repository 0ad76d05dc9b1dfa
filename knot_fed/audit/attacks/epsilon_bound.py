"""A lower bound on epsilon from one training run with canaries (Steinke, Nasr, Jagielski 2023)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom

SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)
"""Shares of the canaries that are guessed; all are tried, and the confidence of each is corrected."""
HIGHEST_EPSILON = 60.0


@dataclass(frozen=True, slots=True)
class EpsilonBound:
    """A lower bound on epsilon, 0 if the guesses prove nothing, and the counts of the share that gave it."""

    epsilon: float
    canaries: int
    guesses: int  # canaries on which the auditor did not abstain
    right: int
    confidence: float  # probability, over canaries and mechanism, that the bound holds


def p_value(*, canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Bound the probability of at least `right` right guesses about an (epsilon, delta)-DP mechanism.

    With r guesses about m canaries, each included by a fair coin, and B ~ Binomial(r, e^epsilon / (1 + e^epsilon)):

        P[right >= v] <= P[B >= v] + 2 m delta max_{i >= 1} P[v - i <= B < v] / i

    (theorem 5.2 of arXiv 2305.08846; the first term alone is the theorem for delta = 0). Neighbours differ in one
    canary added or removed; 0 <= right <= guesses <= canaries.

    Examples
    --------
    >>> p_value(canaries=5, guesses=5, right=5, epsilon=0.0, delta=0.0)
    0.03125
    """
    chance = expit(epsilon)
    tail = float(binom.sf(right - 1, guesses, chance))
    if delta == 0:
        return tail
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
    steepest = float((below / np.arange(1, right + 1)).max(initial=0.0))
    return min(1.0, tail + 2 * canaries * delta * steepest)


def epsilon_lower_bound(
    *, canaries: int, guesses: int, right: int, delta: float, confidence: float = 0.95
) -> EpsilonBound:
    """Return the least epsilon that the guesses do not reject, for a number of guesses fixed in advance.

    Examples
    --------
    >>> round(epsilon_lower_bound(canaries=100, guesses=100, right=100, delta=0.0).epsilon, 2)
    3.49
    """

    def excess(epsilon: float) -> float:
        doubted = {"canaries": canaries, "guesses": guesses, "right": right, "delta": delta}
        return p_value(**doubted, epsilon=epsilon) - (1 - confidence)  # type: ignore[arg-type]

    epsilon = 0.0
    if excess(0.0) < 0:
        epsilon = HIGHEST_EPSILON if excess(HIGHEST_EPSILON) < 0 else float(brentq(excess, 0.0, HIGHEST_EPSILON))
    return EpsilonBound(epsilon, canaries, guesses, right, confidence)


def audit_guesses(
    scores: Float[np.ndarray, "canaries"],
    included: Bool[np.ndarray, "canaries"],
    *,
    delta: float,
    confidence: float = 0.95,
) -> EpsilonBound:
    """Guess which canaries were included, from the highest and lowest scores, and bound epsilon.

    Half of the guesses say *in*, for the highest scores, and half *out*, for the lowest; the auditor abstains in
    between. All `SHARES` are tried and the best bound is returned, each at confidence
    `1 - (1 - confidence) / shares`, so that the result keeps its confidence (Bonferroni). Scores must not depend on
    `included`, which are independent fair coins; ties are broken by position.
    """
    order = np.argsort(scores, kind="stable")
    each = 1 - (1 - confidence) / len(SHARES)
    bounds = []
    for share in SHARES:
        half = int(share * len(order)) // 2
        right = int((~included[order[:half]]).sum() + included[order[len(order) - half :]].sum())
        bounds.append(
            epsilon_lower_bound(canaries=len(order), guesses=2 * half, right=right, delta=delta, confidence=each)
        )
    best = max(bounds, key=lambda bound: bound.epsilon)
    return EpsilonBound(best.epsilon, best.canaries, best.guesses, best.right, confidence)
