"""Choosing a solver, and solving pairs of distributions by it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float

from knot_fed.errors import GroundCostError
from knot_fed.transport.exact import cut_solution, program_solution, table_solution
from knot_fed.transport.ground_cost import GroundCost
from knot_fed.transport.sinkhorn import Sinkhorn, sinkhorn

MANY_LABELS = 256
"""Beyond so many labels, and on a GPU, Sinkhorn is faster than the linear program."""
SMALLEST_MASS = 1e-9


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far Sinkhorn goes; the exact solvers do not read it.

    Parameters
    ----------
    entropic_epsilon
        Entropy at the last stage, as a share of the largest ground cost, > 0. From 1/110 up all is done in float32:
        1/110 is the fast mode, within 1 % in value where the default is within 0.1 %.
    marginal_error
        Largest L1 error of the marginals, relative to the mass moved; None: 0.003, or 0.01 beyond 256 labels.
    """

    entropic_epsilon: float = 1 / 600
    marginal_error: float | None = None

    def __post_init__(self) -> None:
        if not self.entropic_epsilon > 0 or (self.marginal_error is not None and not self.marginal_error > 0):
            raise GroundCostError(
                f"entropic_epsilon = {self.entropic_epsilon}, marginal_error = {self.marginal_error}: give numbers > 0"
            )


DEFAULT = Accuracy()


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Costs and potentials of pairs of distributions.

    Parameters
    ----------
    cost
        Transport cost.
    f
        Potential of `a`: a subgradient of the cost along the simplex, up to a constant a row.
    second
        Potential of `b`, likewise; None where it is `-f`, as over a metric.
    sinkhorn
        What Sinkhorn's algorithm came to; None for the exact solvers.
    """

    cost: Float[torch.Tensor, "pairs"]
    f: Float[torch.Tensor, "pairs classes"]
    second: Float[torch.Tensor, "pairs classes"] | None = None
    sinkhorn: Sinkhorn | None = None

    @property
    def g(self) -> Float[torch.Tensor, "pairs classes"]:
        """The potential of `b`."""
        return -self.f if self.second is None else self.second


def choose_solver(ground_cost: GroundCost, solver: str, device: torch.device) -> str:
    """Return the solver that runs: the one asked for, or what `auto` picks.

    Raises
    ------
    GroundCostError
        If there is no such solver, or it does not apply to the ground cost.
    """
    shape = ground_cost.cuts.shape if ground_cost.cuts is not None else None
    exact = [*([shape] if shape else []), *(["table"] if ground_cost.table is not None else [])]
    if solver == "auto":
        few = len(ground_cost) <= MANY_LABELS and device.type == "cpu"
        return (exact or ["lp" if few else "sinkhorn"])[0]
    if solver not in ("line", "star", "table", "lp", "sinkhorn"):
        raise GroundCostError(f"no solver {solver!r}; use auto, line, star, table, lp or sinkhorn")
    if solver not in (*exact, "lp", "sinkhorn"):
        raise GroundCostError(f"solver {solver!r} does not apply to this ground cost; use auto, lp or sinkhorn")
    return solver


def solve_pairs(
    a: Float[torch.Tensor, "*#pairs classes"],
    b: Float[torch.Tensor, "*#pairs classes"],
    ground_cost: GroundCost,
    *,
    solver: str,
    accuracy: Accuracy,
) -> Solution:
    """Solve pairs of distributions, flattened to rows, by one solver; records no gradient.

    Over a metric the cost depends on `a - b` alone (Kantorovich and Rubinstein 1958).
    """
    classes = len(ground_cost)
    if not ground_cost.metric:
        first, second = (side.expand_as(a - b).reshape(-1, classes) for side in (a, b))
        return _solve_general(first, second, ground_cost, solver, accuracy)
    difference = (a - b).reshape(-1, classes)
    placed = ground_cost.placed(difference.device, difference.dtype)
    if solver == "table":
        return Solution(*table_solution(difference, placed))
    if solver in ("line", "star"):
        return Solution(*cut_solution(difference, placed))
    if solver == "lp":
        cost, f, _ = program_solution(difference.clamp(min=0), (-difference).clamp(min=0), placed)
        return Solution(cost, f)
    return _solve_cancelled(difference, ground_cost, accuracy)


def _solve_general(
    a: Float[torch.Tensor, "pairs classes"],
    b: Float[torch.Tensor, "pairs classes"],
    ground_cost: GroundCost,
    solver: str,
    accuracy: Accuracy,
) -> Solution:
    """Solve without the triangle inequality: mass that both sides share may move too."""
    if solver == "lp":
        return Solution(*program_solution(a, b, ground_cost.placed(a.device, a.dtype)))
    result = _run_sinkhorn(a.double(), b.double(), ground_cost, accuracy)
    cost = (result.f * a).sum(dim=1) + (result.g * b).sum(dim=1)
    return Solution(cost.to(a), result.f.to(a), result.g.to(a), result)


def _solve_cancelled(
    difference: Float[torch.Tensor, "pairs classes"], ground_cost: GroundCost, accuracy: Accuracy
) -> Solution:
    """Solve by Sinkhorn on the mass that differs, W(a, b) = W((a - b)+, (b - a)+).

    The shared mass stays in place in an exact plan; without it most of the entropic bias is gone.
    """
    precise = difference.double()
    more, less = precise.clamp(min=0), (-precise).clamp(min=0)
    apart, back = more.sum(dim=1, keepdim=True), less.sum(dim=1, keepdim=True)
    equal = torch.minimum(apart, back) < SMALLEST_MASS
    uniform = torch.full_like(more, 1.0 / len(ground_cost))
    result = _run_sinkhorn(
        torch.where(equal, uniform, more / apart.clamp(min=SMALLEST_MASS)),
        torch.where(equal, uniform, less / back.clamp(min=SMALLEST_MASS)),
        ground_cost,
        accuracy,
    )
    potentials = torch.where(precise > 0, result.f, -result.g).masked_fill(equal, 0.0)
    cost = (potentials * precise).sum(dim=1)
    return Solution(cost.to(difference), potentials.to(difference), sinkhorn=result)


def _run_sinkhorn(
    a: Float[torch.Tensor, "pairs classes"],
    b: Float[torch.Tensor, "pairs classes"],
    ground_cost: GroundCost,
    accuracy: Accuracy,
) -> Sinkhorn:
    default = 0.003 if len(ground_cost) <= MANY_LABELS else 0.01
    return sinkhorn(
        a,
        b,
        ground_cost.placed(a.device, torch.float64).matrix,
        entropic_epsilon=accuracy.entropic_epsilon,
        marginal_error=accuracy.marginal_error or default,
        metric=ground_cost.metric,
    )
