"""Sinkhorn's algorithm as matrix products: one kernel exp(-C / eps) for all pairs, in scaling form.

The regularisation eps decreases in stages; each starts from potentials predicted by the stages before it. Entropic
potentials differ from exact ones by eps times a constant, up to exponentially small terms (Cominetti and San Martin
1994), so the last converged stages are extrapolated to eps = 0. Iterations are over-relaxed (Thibault et al. 2017).
Converged pairs leave the batch.

Costs are scaled to a diameter of 1, and `sharpness` is 1 / eps. Scalings reach exp(3 sharpness / 4), which fits float32
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
"""Smallest marginal error that float32 reaches."""
EXTRAPOLATED = 3
CHUNK = 1 << 16
"""Entries of a batch processed at once on a CPU, so that they stay in the cache."""
LOG_ENTRIES = 1 << 22
"""Entries of all plans processed at once in the log domain."""

Rows = Float[torch.Tensor, "pairs classes"]


@dataclass(frozen=True, slots=True, eq=False)
class Sinkhorn:
    """Potentials of the transport from a to b in units of the cost, and their accuracy."""

    f: Rows  # the gradient of the cost with respect to a (envelope theorem)
    g: Rows  # likewise of b
    marginal_error: Float[torch.Tensor, "pairs"]  # L1, of the last stage, relative to the mass
    iterations: int  # of the slowest pair over all stages; on a GPU of the slowest chunk of pairs


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """A kernel `exp(shift - sharpness C)`; without `marginal_error` the number of iterations is fixed."""

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
        Marginals of equal mass; entries <= 0 count as no mass, and a row without mass costs nothing.
    entropic_epsilon
        Regularisation of the last stage, relative to the product of the marginals, as a share of the largest cost;
        at least 1/900 (1/450 without a metric). From 1/110 (1/55) up, float32 suffices for marginal errors >= 1e-4.
    marginal_error
        A pair has converged if the L1 error of both marginals is below this; at most 2,000 iterations per stage.
    metric
        Whether the cost is a metric, over which potentials differ by at most the diameter; else by twice that.
    extrapolate
        Whether to return the limit for eps = 0 instead of the last stage's potentials.

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
    """Normalise both sides, with uniform rows in place of those without mass, which the last value marks."""
    first, second = a.double().clamp(min=0), b.double().clamp(min=0)
    masses = [side.sum(dim=1, keepdim=True) for side in (first, second)]
    empty = torch.minimum(*masses) < SMALLEST_MASS
    uniform = torch.full_like(first, 1.0 / first.shape[1])
    shares = [torch.where(empty, uniform, side / mass) for side, mass in zip((first, second), masses, strict=True)]
    return shares[0], shares[1], empty


def ladder(wanted: float, *, spread: int) -> list[tuple[float, bool]]:
    """Return the sharpness of each stage, and whether it runs until convergence; the first is only a warm-up.

    `wanted` is that of the last stage, at most 900 / `spread`; `spread` is 1 over a metric, else 2: the largest
    difference between potentials, in diameters.

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
    """Return the Lagrange coefficients of the last (at most three) points for the value at 0.

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
    errors = [EARLY_ERROR if converge else None for _, converge in steps[:-1]] + [marginal_error]
    stages = []
    for (sharpness, _), error in zip(steps, errors, strict=True):
        single = sharpness <= SINGLE_SHARPNESS / spread and (error is None or error >= SINGLE_ERROR)
        shift = sharpness / 4  # exponents from -3/4 to 1/4 sharpness, instead of -1 to 0
        kernel = torch.exp(shift - sharpness * matrix).to(torch.float32 if single else torch.float64)
        stages.append(_Stage(matrix, sharpness, shift, kernel, error))
    return stages


def _run_stages(a: Rows, b: Rows, stages: Sequence[_Stage]) -> list[_Reached]:
    """Run all stages on one chunk; pairs that overflow are solved again in the log domain."""
    reached: list[_Reached] = []
    for stage in stages:
        f, g = _start(reached, stage, a, b)
        result = _run_stage(a, b, f, g, stage, relaxed=stage.marginal_error is not None)
        lost = (~torch.isfinite(result.error + result.f.sum(dim=1) + result.g.sum(dim=1))).nonzero()[:, 0]
        step = max(1, LOG_ENTRIES // stage.matrix.numel())
        for rows in torch.split(lost, step) if len(lost) else ():
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
    if len(reached) > 1:  # potentials are nearly linear in eps = 1 / sharpness
        before, now = (1 / past.stage.sharpness for past in reached[-2:])
        ahead = (1 / stage.sharpness - now) / (now - before)
        f = f + ahead * (f - reached[-2].f)
        g = g + ahead * (g - reached[-2].g)
    # (f - m, g + m) solves the same problem for any m; take the middle of the range of f and -g over labels with mass
    infinity = torch.finfo(f.dtype).max
    highest = torch.maximum(_masked(f, a, -infinity).amax(dim=1), _masked(-g, b, -infinity).amax(dim=1))
    lowest = torch.minimum(_masked(f, a, infinity).amin(dim=1), _masked(-g, b, infinity).amin(dim=1))
    middle = ((highest + lowest) / 2)[:, None]
    return f - middle, g + middle


def _masked(potential: Rows, mass: Rows, outside: float) -> Rows:
    return torch.where(mass > 0, potential, torch.full_like(potential, outside))


def _run_stage(a: Rows, b: Rows, f: Rows, g: Rows, stage: _Stage, *, relaxed: bool) -> _Reached:
    """Scale rows and columns in turn until each pair has converged.

    With K = exp(shift - sharpness C), the plan is P_ij = a_i u_i K_ij v_j b_j for u = exp(sharpness f - shift) and
    v = exp(sharpness g). It has the right row sums if u = 1 / (K (b v)), and column sums if v = 1 / (K^T (a u)).
    """
    kernel, dtype = stage.kernel, stage.kernel.dtype
    end_f, end_g, errors = torch.empty_like(f), torch.empty_like(g), torch.empty_like(f[:, 0])
    rows = torch.arange(len(a), device=a.device)
    a, b = a.to(dtype), b.to(dtype)
    u, v = torch.exp(stage.sharpness * f.to(dtype) - stage.shift), torch.exp(stage.sharpness * g.to(dtype))
    limit = CHECK_EVERY if stage.marginal_error is None else MOST_ITERATIONS
    for done in range(CHECK_EVERY, limit + 1, CHECK_EVERY):
        for iteration in range(CHECK_EVERY):
            before, over = v, relaxed and done + iteration > CHECK_EVERY
            first = (b * v) @ kernel  # K (b v); the costs are symmetric
            u = _scaled(first, u, relaxed=over)
            second = (a * u) @ kernel  # K^T (a u)
            v = _scaled(second, v, relaxed=over)
        # column sums of P are b v K^T(a u), row sums a u K(b v), both before the last update of v
        error = (b * before * second - b).abs().sum(dim=1) + (a * u * first - a).abs().sum(dim=1)
        finished = error < stage.marginal_error if stage.marginal_error and done < limit else error == error
        finished |= ~torch.isfinite(error)  # overflowed; the caller solves these again
        leaving = finished.nonzero()[:, 0]  # a GPU waits here, and not at each selection by a mask
        if not len(leaving):
            continue
        ended = rows[leaving]  # plain potentials, without the over-relaxation: f = -log(K (b v)) / sharpness
        end_f[ended] = ((stage.shift - first[leaving].log()) / stage.sharpness).to(end_f)
        end_g[ended] = (-second[leaving].log() / stage.sharpness).to(end_g)
        errors[ended] = error[leaving].to(errors)
        if len(ended) == len(rows):
            break
        staying = (~finished).nonzero()[:, 0]
        rows, a, b, u, v = (tensor[staying] for tensor in (rows, a, b, u, v))
    return _Reached(stage, end_f, end_g, errors, done)


def _run_stage_in_logs(a: Rows, b: Rows, f: Rows, g: Rows, stage: _Stage) -> tuple[Rows, Rows, torch.Tensor]:
    """Run a stage as `_run_stage`, without over-relaxation in the log domain; O(classes^2) memory per pair."""
    log_a, log_b, costs = a.log()[:, :, None], b.log()[:, None, :], stage.matrix.to(a)[None]
    error = torch.full_like(f[:, 0], torch.inf)
    for _ in range(CHECK_EVERY if stage.marginal_error is None else MOST_ITERATIONS):
        # log sum_j b_j exp(sharpness (g_j - C_ij)); the row sum of P is a_i exp(sharpness f_i) times that
        row_sums = torch.logsumexp(log_b + stage.sharpness * (g[:, None, :] - costs), dim=2)
        error = (a * torch.expm1(stage.sharpness * f + row_sums)).abs().sum(dim=1)
        if stage.marginal_error is not None and bool((error < stage.marginal_error).all()):
            break
        f = -row_sums / stage.sharpness
        g = -torch.logsumexp(log_a + stage.sharpness * (f[:, :, None] - costs), dim=1) / stage.sharpness
    return f, g, error


def _scaled(product: Rows, before: Rows, *, relaxed: bool) -> Rows:
    """Return the new scaling `s = 1 / product`; over-relaxed by 1.5 in the logarithm, `s (s / before)^(1/2)`."""
    scaling = 1 / product
    return scaling * torch.sqrt(scaling / before) if relaxed else scaling


def _extrapolated(reached: Sequence[_Reached]) -> tuple[Rows, Rows]:
    """Extrapolate the potentials of the last converged stages to eps = 0, as polynomials in eps."""
    converged = [past for past in reached if past.stage.marginal_error is not None][-EXTRAPOLATED:]
    shares = extrapolation_shares([1 / past.stage.sharpness for past in converged])
    f, g = torch.zeros_like(converged[0].f), torch.zeros_like(converged[0].g)
    for share, past in zip(shares, converged, strict=True):
        f, g = f + share * past.f, g + share * past.g
    return f, g
