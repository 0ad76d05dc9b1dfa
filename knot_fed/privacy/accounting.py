"""Privacy accounting for Gaussian noise, by dp-accounting: epsilon of a composition, and noise for an epsilon."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.optimize import brentq

from knot_fed.config import LEAST_DELTA, LEAST_EPSILON, MOST_DELTA, MOST_EPSILON
from knot_fed.errors import PrivacyError
from knot_fed.privacy.composition import Repeated, epsilon_by_loss, epsilon_by_renyi, library

Accountant: TypeAlias = Literal["best", "rdp", "pld"]
NOISE_TOLERANCE = 2e-4
"""Relative; the solution is never below the required noise."""
ROUNDING = 1e-9
"""Added, relatively, to a solution on the exact curve, so that its epsilon never exceeds the requested one."""
LEAST_SAMPLED_NOISE = 0.02
"""Below this noise multiplier sampling is ignored: a single release costs more than epsilon 1000."""
LEAST_LOSS = 1e-7
"""Lower bound on the privacy loss of one release, rate over noise; rounding errors are as large."""


@dataclass(frozen=True, slots=True)
class NoiseEvent:
    """`count` sums with Gaussian noise, each over a fresh Poisson sample of the records; PrivacyError if invalid."""

    noise_multiplier: float  # standard deviation of the noise over the L2 sensitivity of one release, > 0
    count: int = 1  # >= 1
    sampling_rate: float = 1.0  # probability in (0, 1] that a record is in a sample

    def __post_init__(self) -> None:
        if not 0 < self.noise_multiplier < math.inf:
            raise PrivacyError(
                f"noise multiplier {self.noise_multiplier:g}: no noise guarantees nothing; give a positive number"
            )
        if self.count < 1:
            raise PrivacyError(f"{self.count} releases: nothing to account for; give 1 or more")
        if not 0 < self.sampling_rate <= 1:
            raise PrivacyError(
                f"sampling rate {self.sampling_rate:g}: Poisson sampling takes each record with a probability; give a"
                " number in (0, 1], such as the batch size over the number of examples"
            )


def check_budget(epsilon: float, delta: float) -> None:
    """Raise PrivacyError unless epsilon is in [0.01, 1000] and delta in [1e-12, 0.1]."""
    if not LEAST_EPSILON <= epsilon <= MOST_EPSILON:
        raise PrivacyError(
            f"epsilon {epsilon:g} is out of range; give {LEAST_EPSILON:g} to {MOST_EPSILON:g}, such as 8"
        )
    if not LEAST_DELTA <= delta <= MOST_DELTA:
        raise PrivacyError(
            f"delta {delta:g} is out of range; give {LEAST_DELTA:g} to {MOST_DELTA:g}, below one over the examples"
        )


def composed_epsilon(events: Sequence[NoiseEvent], delta: float, *, accountant: Accountant = "best") -> float:
    """Return the smallest known epsilon of all events together at a delta in (0, 1); 0 for no events.

    The composition is accounted for as a whole; epsilons are never added up.

    Parameters
    ----------
    accountant
        `rdp`: Renyi divergences (Mironov 2017). `pld`: privacy loss distributions (Koskela et al. 2020), tighter by
        about a tenth; both are upper bounds. `best`: the exact curve of the Gaussian mechanism (Balle and Wang 2018)
        without sampling, else `pld`, or `rdp` if delta is too small for the rounding errors of `pld`; never more than
        without sampling.

    Raises
    ------
    PrivacyError
        If delta is out of range, or dp-accounting is not installed.
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"delta {delta:g} is out of range; give a number in (0, 1), below one over the examples")
    merged = _merged(events)
    if not merged:
        return 0.0
    unsampled = _unsampled_epsilon(events, delta) if accountant == "best" else math.inf
    if accountant == "best" and merged[-1].sampling_rate == 1:
        return unsampled
    by_loss = None if accountant == "rdp" else epsilon_by_loss(merged, delta)
    return min(epsilon_by_renyi(merged, delta) if by_loss is None else by_loss, unsampled)


def dp_sgd_epsilon(
    *, noise_multiplier: float, sampling_rate: float, steps: int, delta: float, accountant: Accountant = "best"
) -> float:
    """Return epsilon of DP-SGD (Abadi et al. 2016) for adding or removing one record; see `composed_epsilon`."""
    return composed_epsilon([NoiseEvent(noise_multiplier, steps, sampling_rate)], delta, accountant=accountant)


def gaussian_epsilon(*, noise_std: float, sensitivity: float, releases: int, delta: float) -> float:
    """Return the exact epsilon of `releases` vectors of an L2 sensitivity with Gaussian noise in each entry."""
    return composed_epsilon([NoiseEvent(noise_std / sensitivity, releases)], delta)


def noise_for_gaussian(*, epsilon: float, delta: float, sensitivity: float, releases: int) -> float:
    """Return the least standard deviation that keeps `releases` vectors together within epsilon and delta.

    Solved on the exact curve (the analytic Gaussian mechanism, Balle and Wang 2018): n releases of sensitivity s are
    equivalent to one of sensitivity s sqrt(n).

    Raises
    ------
    PrivacyError
        If epsilon or delta is out of range, or dp-accounting is not installed.
    """
    check_budget(epsilon, delta)
    one = float(library().get_sigma_gaussian(epsilon, delta)) * (1 + ROUNDING)
    return one * sensitivity * math.sqrt(releases)


def noise_for_dp_sgd(*, epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Return the least noise multiplier that keeps DP-SGD within epsilon and delta, at most 0.02 % too large.

    At least `LEAST_SAMPLED_NOISE`, even if less would do because a record is hardly ever sampled. Raises PrivacyError
    if a value is out of range, or dp-accounting is not installed.
    """
    check_budget(epsilon, delta)
    NoiseEvent(1.0, steps, sampling_rate)
    unsampled = noise_for_gaussian(epsilon=epsilon, delta=delta, sensitivity=1.0, releases=steps)
    if sampling_rate == 1:
        return unsampled

    def excess(log_noise: float) -> float:
        spent = composed_epsilon([NoiseEvent(math.exp(log_noise), steps, sampling_rate)], delta)
        return math.log(min(max(spent / epsilon, 0.1), 10.0))

    near = 1 / math.sqrt(math.log1p((math.sqrt(steps) / unsampled / sampling_rate) ** 2 / steps))
    below, above = _bracket(excess, math.log(near), least=math.log(LEAST_SAMPLED_NOISE * (1 + ROUNDING)))
    found = above if below == above else float(brentq(excess, below, above, xtol=NOISE_TOLERANCE))
    while found < above and excess(found) > 0:
        found = min(found + NOISE_TOLERANCE, above)
    return math.exp(found)


def _bracket(excess: Callable[[float], float], near: float, *, least: float) -> tuple[float, float]:
    """Return two points around the root of a decreasing function, or `least` twice if the root is below it."""
    below = above = max(near, least)
    step = 0.1
    if excess(below) > 0:
        while excess(above := above + step) > 0:
            below, step = above, 2 * step
        return below, above
    while below > least and excess(below := max(below - step, least)) <= 0:
        above, step = below, 2 * step
    return below, above


def _unsampled_epsilon(events: Sequence[NoiseEvent], delta: float) -> float:
    """Return the exact epsilon of the releases without sampling, an upper bound of that with sampling."""
    precision = sum(event.count / event.noise_multiplier / event.noise_multiplier for event in events)
    with np.errstate(divide="ignore"):  # log of a delta of 0, on the way to the root
        return float(library().get_epsilon_gaussian(1 / max(math.sqrt(precision), LEAST_LOSS), delta))


def _merged(events: Sequence[NoiseEvent]) -> list[Repeated]:
    """Merge unsampled events into one, which comes first, exactly, since precisions add up; count equal sampled ones.

    Values that would be lost in rounding errors are bounded from above: by less noise, or a higher rate.
    """
    precision, sampled = 0.0, Counter[tuple[float, float]]()
    for event in events:
        rate = max(event.sampling_rate, LEAST_LOSS)
        noise = min(event.noise_multiplier, rate / LEAST_LOSS)
        if rate == 1 or noise < LEAST_SAMPLED_NOISE:
            precision += event.count / noise / noise
        else:
            sampled[noise, rate] += event.count
    plain = [Repeated(1 / math.sqrt(precision), 1, 1.0)] if precision else []
    return plain + [Repeated(noise, count, rate) for (noise, rate), count in sampled.items()]
