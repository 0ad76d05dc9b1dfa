"""Sinkhorn's algorithm as matrix products: one kernel exp(-C / eps) for all pairs, in scaling form.

The entropic regularisation falls in stages, each started where the last ones point to. Entropic potentials differ from
exact ones by eps times a constant, up to exponentially small terms (Cominetti and San Martin 1994), so that the last
converged stages extrapolate to eps = 0. Iterations are over-relaxed (Thibault et al. 2017), and pairs that have
converged leave the batch.

With costs scaled to a diameter of 1, `sharpness` is 1 / eps. Scalings reach exp(3 sharpness / 4), which float32 holds
up to a sharpness of 110 and float64 up to 900.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float

from knot_fed.transport.checks import check_marginals

SINGLE_SHARPNESS, DOUBLE_SHARPNESS = 110.0, 900.0
CHECK_EVERY = 10
MOST_ITERATIONS = 2000
EARLY_ERROR = 1e-2
SMALLEST_MASS = 1e-9
SINGLE_ERROR = 1e-4
"""Smallest marginal error that float32 is asked for."""
EXTRAPOLATED = 3
CHUNK = 1 << 16
"""Entries of the batch worked on at once, on a CPU; they stay in the cache."""
LOG_ENTRIES = 1 << 22
"""Entries of all plans worked on at once in the log domain."""

Rows = Float[torch.Tensor, "pairs classes"]


@dataclass(frozen=True, slots=True, eq=False)
class Sinkhorn:
    """Potentials of the transport from a to b, in units of the cost, and how far they were brought.

    Parameters
    ----------
    f, g
        Potentials of the two sides, extrapolated to no entropy unless asked otherwise; differentiating the cost with
        respect to the marginals gives these (envelope theorem).
    marginal_error
        L1 error of the last stage's marginals, relative to the mass.
    iterations
        Of the slowest pair, over all stages; on a GPU of the slowest chunk of pairs.
    """

    f: Rows
    g: Rows
    marginal_error: Float[torch.Tensor, "pairs"]
    iterations: int


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """One kernel, `exp(shift - sharpness C)`; a stage without `marginal_error` runs a fixed number of iterations."""

    matrix: Float[torch.Tensor, "classes classes"]
    sharpness: float
    shift: float
    kernel: Float[torch.Tensor, "classes classes"]
    marginal_error: float | None


@dataclass(frozen=True, slots=True, eq=False)
class _Reached:
    """Potentials (costs scaled to 1) at the end of one stage, with their marginal error."""

    stage: _Stage
    f: Rows
    g: Rows
    error: Float[torch.Tensor, "pairs"]
    iterations: int


def sinkhorn(
    a: Rows,
    b: Rows,
    matrix: Float[torch.Tensor, "classes classes"],
    *,
    entropic_epsilon: float,
    marginal_error: float,
    metric: bool = True,
    extrapolate: bool = True,
) -> Sinkhorn:
    """Solve entropic transport for many pairs over one symmetric cost (Cuturi 2013; Feydy et al. 2019).

    Parameters
    ----------
    a, b
        Marginals, of any equal masses; what is not > 0 counts as no mass, and a row without mass costs nothing.
    matrix
        Costs.
    entropic_epsilon
        Strength of the entropy at the last stage, relative to the product of the marginals, as a share of the largest
        cost, > 0; raised to 1/900 (1/450 without a metric) where it is smaller. From 1/110 (1/55) up float32 is
        enough, for marginal errors from 1e-4 up; float64 does the rest.
    marginal_error
        A pair has converged when the L1 error of both marginals is below this; at most 2,000 iterations a stage.
    metric
        Whether the cost is a metric, over which potentials differ by no more than the diameter; else by twice that.
    extrapolate
        Whether to return the limit of no entropy instead of the last stage's potentials.

    Raises
    ------
    ValueError
        If shapes, types or devices do not fit.
    """
    check_marginals(a, b, matrix)
    if not len(a):
        return Sinkhorn(a, b, a[:, 0], 0)
    diameter = matrix.max().clamp(min=torch.finfo(matrix.dtype).tiny)
    first, second, empty = _with_mass(a, b)
    stages = _stages(matrix.double() / diameter, 1.0 / entropic_epsilon, marginal_error, spread=1 if metric else 2)
    step = max(1, CHUNK // a.shape[1]) if a.device.type == "cpu" else max(1, len(a))
    chunks = [
        _run_stages(*pair, stages) for pair in zip(torch.split(first, step), torch.split(second, step), strict=True)
    ]
    last = [reached[-1] for reached in chunks]
    limits = [_extrapolated(reached) if extrapolate else (reached[-1].f, reached[-1].g) for reached in chunks]
    f, g = (torch.cat(sides).to(a) * diameter.to(a) for sides in zip(*limits, strict=True))
    return Sinkhorn(
        f=f.masked_fill(empty, 0.0),
        g=g.masked_fill(empty, 0.0),
        marginal_error=torch.cat([reached.error for reached in last]).to(a),
        iterations=max(sum(stage.iterations for stage in reached) for reached in chunks),
    )


def _with_mass(a: Rows, b: Rows) -> tuple[Rows, Rows, torch.Tensor]:
    """Return both sides in shares of their mass, a uniform stand-in for rows without, and which rows these are."""
    first, second = a.double().clamp(min=0), b.double().clamp(min=0)
    masses = [side.sum(dim=1, keepdim=True) for side in (first, second)]
    empty = torch.minimum(*masses) < SMALLEST_MASS
    uniform = torch.full_like(first, 1.0 / first.shape[1])
    shares = [torch.where(empty, uniform, side / mass) for side, mass in zip((first, second), masses, strict=True)]
    return shares[0], shares[1], empty


def ladder(wanted: float, *, spread: int) -> list[tuple[float, bool]]:
    """Plan rising sharpness, and which stages run until they converge; the first only prepares the second.

    Parameters
    ----------
    wanted
        Sharpness of the last stage; cut at 900 / `spread`.
    spread
        1 over a metric, else 2: how far potentials differ at most, in diameters.

    Examples
    --------
    >>> ladder(600.0, spread=1)
    [(27.5, False), (55.0, True), (110.0, True), (300.0, True), (600.0, True)]
    """
    single = SINGLE_SHARPNESS / spread
    last = min(wanted, DOUBLE_SHARPNESS / spread)
    top = min(last, single)
    late = [last / 2] * (last > 2 * single) + [last] * (last > single)
    return [(top / 4, False), *((sharpness, True) for sharpness in (top / 2, top, *late))]


def extrapolation_shares(points: Sequence[float]) -> list[float]:
    """Return the shares of the last three points at most in the value at 0 of the polynomial through them.

    Examples
    --------
    >>> extrapolation_shares([0.2, 0.1])
    [-1.0, 2.0]
    """
    used = points[-EXTRAPOLATED:]
    return [prod(other / (other - at) for other in used if other != at) for at in used]


def _stages(
    matrix: Float[torch.Tensor, "classes classes"], wanted: float, marginal_error: float, *, spread: int
) -> list[_Stage]:
    steps = ladder(wanted, spread=spread)
    single = SINGLE_SHARPNESS / spread
    errors = [EARLY_ERROR if converge else None for _, converge in steps[:-1]] + [marginal_error]
    return [_stage(matrix, sharpness, error, single) for (sharpness, _), error in zip(steps, errors, strict=True)]


def _stage(
    matrix: Float[torch.Tensor, "classes classes"], sharpness: float, marginal_error: float | None, single: float
) -> _Stage:
    reachable = marginal_error is None or marginal_error >= SINGLE_ERROR
    dtype = torch.float32 if sharpness <= single and reachable else torch.float64
    shift = sharpness / 4
    return _Stage(matrix, sharpness, shift, torch.exp(shift - sharpness * matrix).to(dtype), marginal_error)


def _run_stages(a: Rows, b: Rows, stages: Sequence[_Stage]) -> list[_Reached]:
    """Run all stages on one chunk; pairs that leave the range of numbers are solved again in the log domain."""
    reached: list[_Reached] = []
    for stage in stages:
        f, g = _start(reached, stage, a, b)
        result = _run_stage(a, b, f, g, stage, relaxed=stage.marginal_error is not None)
        lost = ~torch.isfinite(result.error + result.f.sum(dim=1) + result.g.sum(dim=1)).cpu()
        for rows in torch.split(lost.nonzero()[:, 0].to(a.device), max(1, LOG_ENTRIES // stage.matrix.numel())):
            result.f[rows], result.g[rows], result.error[rows] = _run_stage_in_logs(
                a[rows], b[rows], f[rows], g[rows], stage
            )
        reached.append(result)
    return reached


def _start(reached: Sequence[_Reached], stage: _Stage, a: Rows, b: Rows) -> tuple[Rows, Rows]:
    """Predict a stage's potentials by a line in 1 / sharpness, and shift them so that both sides stay small."""
    if not reached:
        zero = torch.zeros_like(a)
        return zero, zero
    f, g = reached[-1].f, reached[-1].g
    if len(reached) > 1:
        before, now = (1 / past.stage.sharpness for past in reached[-2:])
        ahead = (1 / stage.sharpness - now) / (now - before)
        f = f + ahead * (f - reached[-2].f)
        g = g + ahead * (g - reached[-2].g)
    infinity = torch.finfo(f.dtype).max
    highest = torch.maximum(_masked(f, a, -infinity).amax(dim=1), _masked(-g, b, -infinity).amax(dim=1))
    lowest = torch.minimum(_masked(f, a, infinity).amin(dim=1), _masked(-g, b, infinity).amin(dim=1))
    middle = ((highest + lowest) / 2)[:, None]
    return f - middle, g + middle


def _masked(potential: Rows, mass: Rows, outside: float) -> Rows:
    return torch.where(mass > 0, potential, torch.full_like(potential, outside))


def _run_stage(a: Rows, b: Rows, f: Rows, g: Rows, stage: _Stage, *, relaxed: bool) -> _Reached:
    """Scale rows and columns in turn, until each pair has converged or the iterations are done."""
    kernel, dtype = stage.kernel, stage.kernel.dtype
    end_f, end_g, errors = torch.empty_like(f), torch.empty_like(g), torch.empty_like(f[:, 0])
    rows = torch.arange(len(a), device=a.device)
    a, b = a.to(dtype), b.to(dtype)
    u, v = torch.exp(stage.sharpness * f.to(dtype) - stage.shift), torch.exp(stage.sharpness * g.to(dtype))
    limit = CHECK_EVERY if stage.marginal_error is None else MOST_ITERATIONS
    for done in range(CHECK_EVERY, limit + 1, CHECK_EVERY):
        for iteration in range(CHECK_EVERY):
            before, over = v, relaxed and done + iteration > CHECK_EVERY
            first = (b * v) @ kernel
            u = _scaled(first, u, relaxed=over)
            second = (a * u) @ kernel
            v = _scaled(second, v, relaxed=over)
        error = (b * before * second - b).abs().sum(dim=1) + (a * u * first - a).abs().sum(dim=1)
        finished = error < stage.marginal_error if stage.marginal_error and done < limit else error == error
        finished |= ~torch.isfinite(error)
        if not finished.any():
            continue
        ended = rows[finished]
        end_f[ended] = ((stage.shift - first[finished].log()) / stage.sharpness).to(end_f)
        end_g[ended] = (-second[finished].log() / stage.sharpness).to(end_g)
        errors[ended] = error[finished].to(errors)
        if len(ended) == len(rows):
            break
        rows, a, b, u, v = (tensor[~finished] for tensor in (rows, a, b, u, v))
    return _Reached(stage, end_f, end_g, errors, done)


def _run_stage_in_logs(a: Rows, b: Rows, f: Rows, g: Rows, stage: _Stage) -> tuple[Rows, Rows, torch.Tensor]:
    """Run a stage as `_run_stage` does, plainly and by logarithms, which take any mass; O(classes^2) memory a pair."""
    log_a, log_b, costs = a.log()[:, :, None], b.log()[:, None, :], stage.matrix.to(a)[None]
    error = torch.full_like(f[:, 0], torch.inf)
    for _ in range(CHECK_EVERY if stage.marginal_error is None else MOST_ITERATIONS):
        row_sums = torch.logsumexp(log_b + stage.sharpness * (g[:, None, :] - costs), dim=2)
        error = (a * torch.expm1(stage.sharpness * f + row_sums)).abs().sum(dim=1)
        if stage.marginal_error is not None and bool((error < stage.marginal_error).all()):
            break
        f = -row_sums / stage.sharpness
        g = -torch.logsumexp(log_a + stage.sharpness * (f[:, :, None] - costs), dim=1) / stage.sharpness
    return f, g, error


def _scaled(product: Rows, before: Rows, *, relaxed: bool) -> Rows:
    """Return the new scaling `1 / product`, or half as much further."""
    scaling = 1 / product
    return scaling * torch.sqrt(scaling / before) if relaxed else scaling


def _extrapolated(reached: Sequence[_Reached]) -> tuple[Rows, Rows]:
    """Follow the polynomial in 1 / sharpness through the last converged stages, three at most, to 0."""
    converged = [past for past in reached if past.stage.marginal_error is not None][-EXTRAPOLATED:]
    shares = extrapolation_shares([1 / past.stage.sharpness for past in converged])
    f, g = torch.zeros_like(converged[0].f), torch.zeros_like(converged[0].g)
    for share, past in zip(shares, converged, strict=True):
        f, g = f + share * past.f, g + share * past.g
    return f, g
