"""What noise guarantees: epsilon of composed Gaussian noise, and the noise for an epsilon, by dp-accounting."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from knot_fed.errors import PrivacyError

Accountant: TypeAlias = Literal["best", "rdp", "pld"]
INSTALL = "pip install 'knot-fed[privacy]'"
GRID = 1e-3
"""Width of the privacy loss distribution's grid: rounded upwards, within 0.1 % of a ten times finer one."""
SMALL = 0.2
"""Below this epsilon the grid's rounding shows, and a ten times finer one is read."""
LEAST_FOR_PLD = 0.2
"""Below this noise multiplier the grid grows large and epsilon means nothing; Renyi divergences do there."""
NOISE_TOLERANCE = 1e-3
QUICK_ORDERS = (1.5, 1.75, *range(2, 64))
"""Renyi orders of closed form, that bracket the noise in no time."""


@dataclass(frozen=True, slots=True)
class NoiseEvent:
    """Releases of one kind: `count` sums with Gaussian noise, each over a fresh Poisson sample of the records.

    Parameters
    ----------
    noise_multiplier
        Standard deviation of the noise over the L2 sensitivity of one release, > 0.
    count
        Number of releases, >= 1.
    sampling_rate
        Probability in (0, 1] that a record takes part in one of them.

    Raises
    ------
    PrivacyError
        If a value is out of range.
    """

    noise_multiplier: float
    count: int = 1
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.noise_multiplier < math.inf:
            raise PrivacyError(
                f"noise multiplier {self.noise_multiplier:g}: no noise guarantees nothing; give a positive number"
            )
        if self.count < 1:
            raise PrivacyError(f"{self.count} releases: there is nothing to account for; give 1 or more")
        if not 0 < self.sampling_rate <= 1:
            raise PrivacyError(
                f"sampling rate {self.sampling_rate:g}: Poisson sampling takes each record with a probability; give a"
                " number in (0, 1], such as the batch size over the number of examples"
            )


def check_budget(epsilon: float, delta: float) -> None:
    """Refuse a guarantee that means nothing.

    Raises
    ------
    PrivacyError
        If epsilon is not finite and above 0, or delta is not strictly between 0 and 1.
    """
    if not 0 < epsilon < math.inf:
        raise PrivacyError(f"epsilon {epsilon:g} is out of range; give a finite number above 0, such as 8")
    if not 0 < delta < 1:
        raise PrivacyError(f"delta {delta:g} is out of range; give a number in (0, 1), below one over the examples")


def composed_epsilon(events: Sequence[NoiseEvent], delta: float, *, accountant: Accountant = "best") -> float:
    """Return the smallest known epsilon of all events together, at this delta; 0 for none.

    A composition is accounted as one, never as a sum of epsilons.

    Parameters
    ----------
    events
        What was released, in any order.
    delta
        In (0, 1).
    accountant
        `rdp`: Renyi divergences (Mironov 2017). `pld`: privacy loss distributions (Koskela et al. 2020), tighter by
        about a tenth; each is an upper bound. `best`: the exact curve of the Gaussian mechanism (Balle and Wang
        2018) where nothing is sampled, else `pld`, or `rdp` where the noise is too small for it.

    Raises
    ------
    PrivacyError
        If delta is out of range, or dp-accounting is not installed.
    """
    check_budget(1.0, delta)
    merged = _merged(events)
    if not merged:
        return 0.0
    if accountant == "best" and all(event.sampling_rate == 1 for event in merged):
        return float(_library().get_epsilon_gaussian(merged[0].noise_multiplier, delta))
    small = min(event.noise_multiplier for event in merged) < LEAST_FOR_PLD
    by_renyi = accountant == "rdp" or (accountant == "best" and small)
    if by_renyi:
        return _epsilon_by(_library().rdp.RdpAccountant(), merged, delta)
    epsilon = _epsilon_by(_pld_accountant(), merged, delta)
    return epsilon if epsilon > SMALL else _epsilon_by(_pld_accountant(GRID / 10), merged, delta)


def dp_sgd_epsilon(
    *, noise_multiplier: float, sampling_rate: float, steps: int, delta: float, accountant: Accountant = "best"
) -> float:
    """Return epsilon of DP-SGD (Abadi et al. 2016): `steps` Poisson-sampled sums of clipped gradients, with noise.

    For one record more or less. Arguments and errors as in `NoiseEvent` and `composed_epsilon`.
    """
    return composed_epsilon([NoiseEvent(noise_multiplier, steps, sampling_rate)], delta, accountant=accountant)


def gaussian_epsilon(*, noise_std: float, sensitivity: float, releases: int, delta: float) -> float:
    """Return the exact epsilon of `releases` vectors with Gaussian noise of that standard deviation in each entry.

    Parameters
    ----------
    noise_std
        > 0.
    sensitivity
        L2 sensitivity of one vector, > 0.
    releases, delta
        As in `NoiseEvent` and `composed_epsilon`.
    """
    return composed_epsilon([NoiseEvent(noise_std / sensitivity, releases)], delta)


def noise_for_gaussian(*, epsilon: float, delta: float, sensitivity: float, releases: int) -> float:
    """Return the least standard deviation that keeps `releases` vectors together within epsilon and delta.

    Solved on the exact curve (the analytic Gaussian mechanism, Balle and Wang 2018): n releases of sensitivity s are
    one of sensitivity s sqrt(n).

    Raises
    ------
    PrivacyError
        If epsilon or delta is out of range, or dp-accounting is not installed.
    """
    check_budget(epsilon, delta)
    return float(_library().get_sigma_gaussian(epsilon, delta)) * sensitivity * math.sqrt(releases)


def noise_for_dp_sgd(*, epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Return the least noise multiplier that keeps DP-SGD within epsilon and delta, to 0.001 and never below.

    Raises
    ------
    PrivacyError
        If epsilon, delta, rate or steps are out of range, or dp-accounting is not installed.
    """
    check_budget(epsilon, delta)
    NoiseEvent(1.0, steps, sampling_rate)
    library = _library()
    event = partial(_dp_event, count=steps, sampling_rate=sampling_rate)
    with _quiet():
        solve = partial(
            library.calibrate_dp_mechanism, make_event_from_param=event, target_epsilon=epsilon, target_delta=delta,
            tol=NOISE_TOLERANCE,
        )  # fmt: skip
        renyi = partial(library.rdp.RdpAccountant, orders=QUICK_ORDERS)
        above = float(solve(renyi, bracket_interval=library.LowerEndpointAndGuess(0.05, 1.0)))
        if above < 2 * LEAST_FOR_PLD:
            return above
        return float(solve(_pld_accountant, bracket_interval=library.ExplicitBracketInterval(above / 2, above)))


def _merged(events: Sequence[NoiseEvent]) -> list[NoiseEvent]:
    """Join all unsampled events in one, exactly: precisions add up; it stands first."""
    plain = sum(event.count / event.noise_multiplier**2 for event in events if event.sampling_rate == 1)
    sampled = [event for event in events if event.sampling_rate < 1]
    return [NoiseEvent(1 / math.sqrt(plain)), *sampled] if plain else sampled


def _epsilon_by(accountant: Any, events: Sequence[NoiseEvent], delta: float) -> float:
    with _quiet():
        for event in events:
            accountant.compose(_dp_event(event.noise_multiplier, event.count, event.sampling_rate))
        return float(accountant.get_epsilon(delta))


def _dp_event(noise_multiplier: float, count: int, sampling_rate: float) -> Any:
    library = _library()
    event = library.GaussianDpEvent(noise_multiplier)
    if sampling_rate < 1:
        event = library.PoissonSampledDpEvent(sampling_rate, event)
    return library.SelfComposedDpEvent(event, count)


def _pld_accountant(grid: float = GRID) -> Any:
    return _library().pld.PLDAccountant(value_discretization_interval=grid)


def _library() -> Any:
    try:
        import dp_accounting
    except ImportError:
        raise PrivacyError(f"dp-accounting is not installed and nothing else does the accounting; {INSTALL}") from None
    return dp_accounting


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the accountant's notes on Renyi orders that it leaves out."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
