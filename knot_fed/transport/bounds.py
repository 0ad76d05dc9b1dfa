"""Certified bounds of a transport cost: a feasible potential below, a feasible plan above."""

import torch
from jaxtyping import Float

SHARPNESS, FARTHEST, SCALINGS = 300.0, 80.0, 50
"""Of the plan: 1 / eps in units of 1 / the largest cost, limit of the exponents, and number of scalings."""

Rows = Float[torch.Tensor, "pairs classes"]
Bounds = Float[torch.Tensor, "pairs"]
Matrix = Float[torch.Tensor, "classes classes"]


def potential_bound(a: Rows, b: Rows, f: Rows, g: Rows, matrix: Matrix) -> Bounds:
    """Return a lower bound of the cost by weak duality, `<f, a> + <g, b>` with `f_i + g_j <= C_ij`.

    Any potentials will do; they are read only at labels with mass. The best partners of f, or of g, are feasible; the
    better bound counts.
    """
    from_g = _best_partner(g, b, matrix)
    from_f = _best_partner(f, a, matrix)
    bounds = [
        (from_g * a).sum(dim=1) + (_best_partner(from_g, a, matrix) * b).sum(dim=1),
        (_best_partner(from_f, b, matrix) * a).sum(dim=1) + (from_f * b).sum(dim=1),
    ]
    return torch.maximum(*bounds)


def plan_cost(a: Rows, b: Rows, f: Rows, g: Rows, matrix: Matrix) -> Bounds:
    """Return an upper bound: the cost of a plan with exactly the marginals a and b, of equal mass.

    The plan `exp((f_i + g_j - C_ij) / eps)` is scaled towards the marginals and rounded to them (Altschuler, Weed and
    Rigollet 2017, algorithm 2). Any potentials f and g will do.
    """
    tiny = torch.finfo(a.dtype).tiny
    sharpness = SHARPNESS / matrix.max().clamp(min=tiny)
    plan = torch.exp((sharpness * (f[:, :, None] + g[:, None, :] - matrix[None])).clamp(-FARTHEST, FARTHEST))
    plan = plan * (a > 0)[:, :, None] * (b > 0)[:, None, :]
    for _ in range(SCALINGS):
        plan = plan * (a / plan.sum(dim=2).clamp(min=tiny))[:, :, None]
        plan = plan * (b / plan.sum(dim=1).clamp(min=tiny))[:, None, :]
    # Rounding: shrink rows and columns that exceed their marginals, then add the rank-one plan of the missing mass.
    plan = plan * _shrink(a, plan.sum(dim=2))[:, :, None]
    plan = plan * _shrink(b, plan.sum(dim=1))[:, None, :]
    rest_a, rest_b = (a - plan.sum(dim=2)).clamp(min=0), (b - plan.sum(dim=1)).clamp(min=0)
    rest = rest_a.sum(dim=1).clamp(min=tiny)
    return (plan * matrix[None]).sum(dim=(1, 2)) + ((rest_a @ matrix) * rest_b).sum(dim=1) / rest


def _best_partner(potential: Rows, mass: Rows, matrix: Matrix) -> Rows:
    """Return `min_j C_ij - potential_j` over the labels with mass, or over all if there are none."""
    somewhere = (mass > 0) | ~(mass > 0).any(dim=1, keepdim=True)
    known = torch.where(somewhere, potential, torch.full_like(potential, -torch.inf))
    return (matrix[None] - known[:, None, :]).amin(dim=2)


def _shrink(wanted: Rows, have: Rows) -> Rows:
    return (wanted / have.clamp(min=torch.finfo(have.dtype).tiny)).clamp(max=1.0)
