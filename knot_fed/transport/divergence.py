"""The Sinkhorn divergence: debiased entropic transport."""

import torch
from jaxtyping import Float

from knot_fed.transport.checks import check_pairs, check_prepared
from knot_fed.transport.ground_cost import GroundCost
from knot_fed.transport.solve import Accuracy
from knot_fed.transport.solvers.sinkhorn import DOUBLE_SHARPNESS, LOG_ENTRIES, Rows, sinkhorn

MOST_STEPS = 1000
CHECK_ON_GPU = 10
"""Steps between two checks of convergence on a GPU, which waits for each."""


def sinkhorn_divergence(
    a: Float[torch.Tensor, "examples classes"],
    b: Float[torch.Tensor, "examples *teachers classes"],
    ground_cost: GroundCost,
    *,
    entropic_epsilon: float = 0.1,
    marginal_error: float = 1e-6,
) -> Float[torch.Tensor, "examples *teachers"]:
    """Return `OT_eps(a, b) - OT_eps(a, a) / 2 - OT_eps(b, b) / 2` (Genevay et al. 2018; Feydy et al. 2019).

    `OT_eps(a, b) = min_P <P, C> + eps KL(P | a b)`. The divergence is at least 0, and 0 if `a = b`. Differentiable in
    `a` and `b`; the potentials are detached (envelope theorem). Computed in float64, and returned in float64 if one
    side is, else in float32.

    Parameters
    ----------
    a, b
        The student's distributions, and one or several teachers' per example; of any floating types, on one device.
    entropic_epsilon
        As a share of the largest ground cost, > 0; at least 1/900 (1/450 without a metric) is used.
    marginal_error
        Largest L1 error of the marginals, > 0.

    Raises
    ------
    ValueError, TypeError, GroundCostError
        If shapes, devices or types do not fit, or epsilon or the marginal error is not > 0.

    Examples
    --------
    >>> from knot_fed.transport import check_ground_cost
    >>> a = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    >>> b = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64)
    >>> ground_cost = check_ground_cost([[0, 1, 2], [1, 0, 1], [2, 1, 0]])
    >>> [round(abs(float(sinkhorn_divergence(a, other, ground_cost)[0])), 3) for other in (a, b)]
    [0.0, 0.863]
    """
    check_prepared(ground_cost)
    check_pairs(a, b, len(ground_cost))
    Accuracy(entropic_epsilon, marginal_error)  # checks the ranges
    entropic_epsilon = max(entropic_epsilon, (1 if ground_cost.metric else 2) / DOUBLE_SHARPNESS)
    first = (a if b.ndim == 2 else a[:, None].expand_as(b)).reshape(-1, len(ground_cost)).double()
    second = b.reshape(-1, len(ground_cost)).double()
    with torch.no_grad(), torch.autocast(a.device.type, enabled=False):
        f, g = _debiased_potentials(first, second, ground_cost, entropic_epsilon, marginal_error)
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    return ((f * first).sum(dim=1) + (g * second).sum(dim=1)).reshape(b.shape[:-1]).to(dtype)


def _debiased_potentials(
    a: Rows, b: Rows, ground_cost: GroundCost, entropic_epsilon: float, marginal_error: float
) -> tuple[Rows, Rows]:
    """Return the potentials of `OT_eps(a, b)` minus those of each side with itself: the gradients of the divergence."""
    matrix = ground_cost.to(a.device, torch.float64).matrix
    solved = sinkhorn(
        a, b, matrix, entropic_epsilon=entropic_epsilon, marginal_error=marginal_error,
        metric=ground_cost.metric, extrapolate=False,
    )  # fmt: skip
    epsilon = entropic_epsilon * (ground_cost.diameter or 1.0)
    f = solved.f - _self_potential(a, matrix, epsilon, marginal_error)
    return f, solved.g - _self_potential(b, matrix, epsilon, marginal_error)


def _self_potential(a: Rows, matrix: torch.Tensor, epsilon: float, marginal_error: float) -> Rows:
    """Return the potential of OT_eps(a, a) by averaged Sinkhorn steps (Feydy et al. 2019, section 3.1)."""
    parts = []
    for log_a in torch.split(a.log()[:, :, None], max(1, LOG_ENTRIES // matrix.numel())):
        f = torch.zeros_like(log_a[:, :, 0])
        every = CHECK_ON_GPU if f.is_cuda else 1
        for done in range(1, MOST_STEPS + 1):
            # T(f)_j = -eps log sum_i a_i exp((f_i - C_ij) / eps); f = (f + T(f)) / 2 converges to its fixed point
            step = -epsilon * torch.logsumexp(log_a + (f[:, :, None] - matrix) / epsilon, dim=1)
            close = (step - f).abs() < marginal_error * epsilon
            f = (f + step) / 2
            if done % every == 0 and bool(close.all()):
                break
        parts.append(f)
    return torch.cat(parts)
