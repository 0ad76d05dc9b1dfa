"""The choice of a solver, and its call on pairs of distributions."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float

from knot_fed.errors import GroundCostError
from knot_fed.transport.ground_cost import GroundCost
from knot_fed.transport.solvers.exact import cut_solution, program_solution, table_solution
from knot_fed.transport.solvers.sinkhorn import Rows, Sinkhorn, sinkhorn

MANY_LABELS = 48
"""With more labels, and on a GPU, Sinkhorn is faster than the linear program."""
SOLVERS = ("auto", "line", "star", "table", "lp", "sinkhorn")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy of Sinkhorn; the exact solvers ignore it.

    Parameters
    ----------
    entropic_epsilon
        Regularisation of the last stage, as a share of the largest ground cost, > 0. The default is within 0.1 % in
        value; the fast mode, 1/110, is within 1 % and runs in float32.
    marginal_error
        Largest L1 error of the marginals, relative to the mass moved, > 0.
    """

    entropic_epsilon: float = 1 / 600
    marginal_error: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.entropic_epsilon < inf and 0 < self.marginal_error < inf):
            raise GroundCostError(
                f"entropic_epsilon = {self.entropic_epsilon}, marginal_error = {self.marginal_error}: give finite"
                " numbers > 0"
            )


DEFAULT = Accuracy()


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Costs and potentials of pairs of distributions."""

    cost: Float[torch.Tensor, "pairs"]
    f: Rows  # potential of a: a subgradient of the cost along the simplex, up to a constant per row
    second: Rows | None = None  # potential of b; None if it is -f, as over a metric
    sinkhorn: Sinkhorn | None = None  # None for exact solvers

    @property
    def g(self) -> Rows:
        """The potential of `b`."""
        return -self.f if self.second is None else self.second


def choose_solver(ground_cost: GroundCost, solver: str, device: torch.device) -> str:
    """Resolve `auto`; raise GroundCostError if the solver is unknown or does not apply to the ground cost."""
    shape = ground_cost.cuts.shape if ground_cost.cuts is not None else None
    exact = [*([shape] if shape else []), *(["table"] if ground_cost.table is not None else [])]
    if solver == "auto":
        few = len(ground_cost) <= MANY_LABELS and device.type == "cpu"
        return (exact or ["lp" if few else "sinkhorn"])[0]
    if solver not in SOLVERS:
        raise GroundCostError(f"no solver {solver!r}; use {', '.join(SOLVERS)}")
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
    """Solve pairs of distributions, flattened to rows, without recording a gradient.

    Over a metric the cost depends on `a - b` only (Kantorovich and Rubinstein 1958).
    """
    classes = len(ground_cost)
    if not ground_cost.metric:  # mass that both sides share may move too
        first, second = (side.expand_as(a - b).reshape(-1, classes) for side in (a, b))
        if solver == "lp":
            return Solution(*program_solution(first, second, ground_cost.to(first.device, first.dtype)))
        result = _run_sinkhorn(first, second, ground_cost, accuracy)
        cost = (result.f * first).sum(dim=1) + (result.g * second).sum(dim=1)
        return Solution(cost, result.f, result.g, result)
    difference = (a - b).reshape(-1, classes)
    on_device = ground_cost.to(difference.device, difference.dtype)
    if solver == "table":
        return Solution(*table_solution(difference, on_device))
    if solver in ("line", "star"):
        return Solution(*cut_solution(difference, on_device))
    if solver == "lp":
        cost, f, _ = program_solution(difference.clamp(min=0), (-difference).clamp(min=0), on_device)
        return Solution(cost, f)
    # W(a, b) = W((a - b)+, (b - a)+): exact plans leave shared mass in place, and it causes most of the entropic bias.
    result = _run_sinkhorn(difference, -difference, ground_cost, accuracy)
    potentials = torch.lerp(-result.g, result.f, (difference > 0).to(result.f))  # f where a > b, else -g; beats where
    return Solution((potentials * difference).sum(dim=1), potentials, sinkhorn=result)


def _run_sinkhorn(a: Rows, b: Rows, ground_cost: GroundCost, accuracy: Accuracy) -> Sinkhorn:
    solve: Callable[..., Sinkhorn] = sinkhorn
    if a.device.type == "cpu":
        from knot_fed.transport.solvers import cpu_sinkhorn  # compiles at import

        solve = cpu_sinkhorn.sinkhorn
    matrix, epsilon = ground_cost.to(a.device, torch.float64).matrix, accuracy.entropic_epsilon
    error, metric = accuracy.marginal_error, ground_cost.metric
    return solve(a, b, matrix, entropic_epsilon=epsilon, marginal_error=error, metric=metric)
