"""Epsilon of compositions of Poisson-sampled Gaussian releases, by dp-accounting on a grid adapted to them."""

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
"""Grid cells per standard deviation of one step's privacy loss; epsilon comes out about 0.05 % too large."""
CELLS_PER_EPSILON = 64
WIDEST_STEP, WIDEST_SPREAD = 40_000, 16_000
"""Maximum cells in the range of one step's loss, and in a standard deviation of the total; else a coarser grid."""
NARROWEST_CELL, WIDEST_CELL = 2e-7, 100.0
"""Narrower cells are lost in rounding errors; wider ones occur only for releases without a useful guarantee."""
ROUNDING = 2e-16
"""Error in delta per composed step, from the Fourier transform; must stay below a tenth of delta."""
_ORDERS = [1 + 0.1 * 1.15**step for step in range(82)]
ORDERS = sorted({*map(math.ceil, _ORDERS), *(order for order in _ORDERS if order < 6)})
"""Renyi orders up to 8,252; epsilon 0.01 at delta 1e-12 needs 5,000. Fractional ones are slow and may not converge."""
TAIL = 1e-18
"""Probability mass of the tail that is counted as an infinite loss."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """`count` equal releases."""

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
    """Return an upper bound on epsilon by privacy loss distributions (Koskela et al. 2020; Doroshenko et al. 2022).

    The grid adapts to the releases: a fixed width would hide small losses, and need gigabytes for large ones. Returns
    None if rounding could hide a part of delta; the more releases, the larger delta must be.
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
    """Return an upper bound on epsilon by Renyi divergences (Mironov 2017) for any delta, looser by about a tenth."""
    accountant = library().rdp.RdpAccountant(orders=ORDERS)
    with _quiet():
        for release in releases:
            gaussian = library().GaussianDpEvent(release.noise_multiplier)
            sampled = library().PoissonSampledDpEvent(release.sampling_rate, gaussian)
            accountant.compose(sampled if release.sampling_rate < 1 else gaussian, release.count)
        return float(accountant.get_epsilon(delta))


def library() -> Any:
    """Return dp-accounting; raises PrivacyError if it is not installed."""
    try:
        import dp_accounting
        import dp_accounting.pld
    except ImportError:
        raise PrivacyError(f"dp-accounting is not installed and is needed for privacy accounting; {INSTALL}") from None
    return dp_accounting


def _epsilon_on_grid(releases: Sequence[Repeated], delta: float, cell: float) -> float:
    """Return the least epsilon whose delta is small enough, to 1e-9; infinite if it is above 1e9."""
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
    """Compose equal releases; more than 1000 in two stages, whose tail bounds are far tighter than of one."""
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
    """Silence dp-accounting's warnings about skipped Renyi orders."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
