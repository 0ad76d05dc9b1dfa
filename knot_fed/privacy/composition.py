"""Epsilon of many Poisson-sampled Gaussian releases together, by dp-accounting, on a grid that fits them."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from knot_fed.errors import PrivacyError

INSTALL = "pip install 'knot-fed[privacy]'"
CELLS_PER_STEP = 16
"""Cells of the grid in one standard deviation of a step's privacy loss: epsilon comes out some 0.05 % too large."""
CELLS_PER_EPSILON = 64
WIDEST_STEP, WIDEST_SPREAD = 40_000, 16_000
"""Cells at most in the range of one step's loss, and in a standard deviation of all; beyond, the grid is coarser."""
NARROWEST_CELL, WIDEST_CELL = 2e-7, 100.0
"""Narrower cells drown in rounding errors; wider ones are those of releases that guarantee nothing."""
ROUNDING = 2e-16
"""Error in delta for each composed step, by the Fourier transform; more than a tenth of delta, and it is not used."""
_ORDERS = [1 + 0.1 * 1.15**step for step in range(82)]
ORDERS = sorted({*map(math.ceil, _ORDERS), *(order for order in _ORDERS if order < 6)})
"""Renyi orders up to 8,252: epsilon 0.01 at delta 1e-12 needs 5,000. Fractional ones are slow and may not converge."""
TAIL = 1e-18
"""Probability of large losses that may be counted as a release in the clear."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """Equal releases: noise multiplier, how many there are, and the sampling rate."""

    noise_multiplier: float
    count: int
    sampling_rate: float

    def loss(self) -> tuple[float, float]:
        """Return the standard deviation and the largest value of one release's privacy loss."""
        noise, rate = self.noise_multiplier, self.sampling_rate
        if rate == 1:
            return 1 / noise, (10 + 0.5 / noise) / noise
        x = np.linspace(-10 * noise, 1 + 10 * noise, 2001)
        density = (1 - rate) * np.exp(-0.5 * (x / noise) ** 2) + rate * np.exp(-0.5 * ((x - 1) / noise) ** 2)
        losses = np.logaddexp(math.log1p(-rate), math.log(rate) + (x - 0.5) / noise**2)
        mean = np.average(losses, weights=density)
        return math.sqrt(np.average((losses - mean) ** 2, weights=density)), float(losses[-1])


def epsilon_by_loss(releases: Sequence[Repeated], delta: float) -> float | None:
    """Return epsilon by privacy loss distributions (Koskela et al. 2020; Doroshenko et al. 2022), an upper bound.

    The grid is as narrow as the releases need: a fixed one drowns small losses in its width, and takes gigabytes for
    large ones.

    Returns
    -------
    epsilon
        None where rounding could hide a part of delta: the more releases, the larger delta has to be.
    """
    error = ROUNDING * (sum(release.count for release in releases) + 100)
    if delta < 10 * error:
        return None
    losses = [(release.count, *release.loss()) for release in releases]
    spread = math.sqrt(sum(count * deviation**2 for count, deviation, _ in losses))
    coarsest = spread / math.sqrt(sum(count for count, _, _ in losses)) / CELLS_PER_STEP
    finest = max(NARROWEST_CELL, spread / WIDEST_SPREAD, max(largest for _, _, largest in losses) / WIDEST_STEP)
    cell = max(coarsest, finest)
    if cell > WIDEST_CELL:
        return math.inf
    epsilon = _epsilon_on_grid(releases, delta - error, cell)
    narrower = max(epsilon / CELLS_PER_EPSILON, finest)
    if epsilon == 0 or narrower >= cell:
        return epsilon
    return _epsilon_on_grid(releases, delta - error, narrower)


def epsilon_by_renyi(releases: Sequence[Repeated], delta: float) -> float:
    """Return epsilon by Renyi divergences (Mironov 2017), an upper bound for any delta, looser by about a tenth."""
    accountant = library().rdp.RdpAccountant(orders=ORDERS)
    with _quiet():
        for release in releases:
            gaussian = library().GaussianDpEvent(release.noise_multiplier)
            sampled = library().PoissonSampledDpEvent(release.sampling_rate, gaussian)
            accountant.compose(sampled if release.sampling_rate < 1 else gaussian, release.count)
        return float(accountant.get_epsilon(delta))


def library() -> Any:
    """Return dp-accounting.

    Raises
    ------
    PrivacyError
        If it is not installed.
    """
    try:
        import dp_accounting
        import dp_accounting.pld
    except ImportError:
        raise PrivacyError(f"dp-accounting is not installed and nothing else does the accounting; {INSTALL}") from None
    return dp_accounting


def _epsilon_on_grid(releases: Sequence[Repeated], delta: float, cell: float) -> float:
    """Return the least epsilon whose delta is small enough, to 1e-9; infinite, if none is below 1e9."""
    composed, *others = (_loss_distribution(release, cell) for release in releases)
    for other in others:
        composed = composed.compose(other, TAIL)

    def excess(epsilon: float) -> float:
        found = float(composed.get_delta_for_epsilon(epsilon))
        return math.log(max(found, 1e-300) / delta) if math.isfinite(found) else math.inf

    if excess(0.0) <= 0:
        return 0.0
    above = 1.0
    while excess(above) > 0:
        above *= 10
        if above > 1e9:
            return math.inf
    return float(brentq(excess, 0.0 if above == 1 else above / 10, above, xtol=1e-12, rtol=1e-10)) * (1 + 1e-9)


def _loss_distribution(release: Repeated, cell: float) -> Any:
    """Compose equal releases; many of them in two stages, whose bounds on tails are far tighter than those of one."""
    one = library().pld.privacy_loss_distribution.from_gaussian_mechanism(
        release.noise_multiplier, value_discretization_interval=cell, sampling_prob=release.sampling_rate
    )
    if release.count == 1:
        return one
    inner = math.isqrt(release.count) if release.count > 1000 else 1
    outer, rest = divmod(release.count, inner)
    whole = (one if inner == 1 else one.self_compose(inner, TAIL / outer)).self_compose(outer, TAIL)
    return whole.compose(one if rest == 1 else one.self_compose(rest, TAIL), TAIL) if rest else whole


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
