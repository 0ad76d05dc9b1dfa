"""Sinkhorn's algorithm in the log domain, on the mass that two distributions do not share."""

import torch
from jaxtyping import Float

MAX_ITERATIONS = 5000
CHECK_EVERY = 10
SMALLEST_MASS = 1e-9


def sinkhorn_potentials(
    difference: Float[torch.Tensor, "pairs classes"],
    matrix: Float[torch.Tensor, "classes classes"],
    *,
    entropic_epsilon: float,
    marginal_error: float = 1e-4,
) -> Float[torch.Tensor, "pairs classes"]:
    """Return entropic potentials `f` where the student has more mass and `-g` where it has less.

    For a metric, common mass stays in place in an exact plan, so only `(a - b)+` and `(b - a)+` are transported;
    this takes most of the entropic bias away. `<f, a - b>` is then the entropic dual value, and `f` its exact
    gradient by Danskin's theorem (Cuturi 2013; Feydy et al. 2019).

    Parameters
    ----------
    difference
        Student's minus teacher's distributions; rows sum to 0.
    matrix
        Ground cost, a metric.
    entropic_epsilon
        Strength of the entropy, > 0, in units of the ground cost.
    marginal_error
        Iterations stop when the L1 error of the second marginal is below this for all pairs.
    """
    mass = difference.clamp(min=0).sum(dim=1, keepdim=True)
    equal = mass < SMALLEST_MASS
    log_more = _log(difference, mass, equal)
    log_less = _log(-difference, mass, equal)
    scaled = -matrix / entropic_epsilon
    g = torch.zeros_like(difference)
    for iteration in range(MAX_ITERATIONS):
        f = -torch.logsumexp(scaled[None] + (g + log_less)[:, None, :], dim=2)
        g_next = -torch.logsumexp(scaled[None] + (f + log_more)[:, :, None], dim=1)
        if iteration % CHECK_EVERY == 0 and _second_marginal_error(g_next, g, log_less) < marginal_error:
            break
        g = g_next
    potential = torch.where(difference < 0, -g, f) * entropic_epsilon
    return torch.where(equal, torch.zeros_like(potential), potential)


def _second_marginal_error(
    g_next: Float[torch.Tensor, "pairs classes"],
    g: Float[torch.Tensor, "pairs classes"],
    log_less: Float[torch.Tensor, "pairs classes"],
) -> float:
    """Return the largest L1 marginal error; after an update of f only the second marginal is off."""
    second = torch.exp(g - g_next + log_less)
    return float((second - torch.exp(log_less)).abs().sum(dim=1).max())


def _log(
    signed: Float[torch.Tensor, "pairs classes"],
    mass: Float[torch.Tensor, "pairs 1"],
    equal: torch.Tensor,
) -> Float[torch.Tensor, "pairs classes"]:
    uniform = torch.full_like(signed, 1.0 / signed.shape[1])
    return torch.where(equal, uniform, signed.clamp(min=0) / mass.clamp(min=SMALLEST_MASS)).log()
