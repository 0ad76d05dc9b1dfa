"""The transport cost between soft labels, over all solvers."""

from dataclasses import dataclass
from typing import Literal, overload

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from knot_fed.errors import SoftLabelsError
from knot_fed.transport.bounds import Rows, plan_cost, potential_bound
from knot_fed.transport.checks import check_pairs
from knot_fed.transport.ground_cost import GroundCost, check_ground_cost
from knot_fed.transport.solve import DEFAULT, Accuracy, Solution, choose_solver, solve_pairs

ATOL = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class TransportReport:
    """The cost with certified bounds of the exact cost, and how it was computed."""

    cost: Float[torch.Tensor, "examples *teachers"]
    lower: Float[torch.Tensor, "examples *teachers"]  # the cost of a feasible potential
    upper: Float[torch.Tensor, "examples *teachers"]  # the cost of a plan with the exact marginals
    solver: str  # the one that ran
    iterations: int  # of Sinkhorn; 0 for exact solvers
    marginal_error: float  # likewise


@overload
def transport_cost(
    a: torch.Tensor, b: torch.Tensor, ground_cost: GroundCost | ArrayLike, *, solver: str = ...,
    accuracy: Accuracy = ..., check: bool = ..., report: Literal[False] = ...,
) -> torch.Tensor: ...  # fmt: skip


@overload
def transport_cost(
    a: torch.Tensor, b: torch.Tensor, ground_cost: GroundCost | ArrayLike, *, solver: str = ...,
    accuracy: Accuracy = ..., check: bool = ..., report: Literal[True],
) -> TransportReport: ...  # fmt: skip


def transport_cost(
    a: Float[torch.Tensor, "examples classes"],
    b: Float[torch.Tensor, "examples *teachers classes"],
    ground_cost: GroundCost | ArrayLike,
    *,
    solver: str = "auto",
    accuracy: Accuracy = DEFAULT,
    check: bool = True,
    report: bool = False,
) -> Float[torch.Tensor, "examples *teachers"] | TransportReport:
    """Return the cost of moving each distribution `a` onto `b`: `min_P <P, C>` over plans with these marginals.

    The gradients in `a` and `b` are the detached potentials (Danskin 1967). Rows are normalised first. The result is
    float64 if one side is, else float32; Sinkhorn and the linear program use float64 internally.

    Parameters
    ----------
    a, b
        The student's distributions, and one or several teachers' per example; of any floating types, on one device.
    ground_cost
        A prepared ground cost, or a matrix that is a metric; preparing takes milliseconds, so do it once.
    solver
        `line` (labels on a line), `star` (equal distances), `table` (up to 8 labels, or 10 if prepared so) and `lp` are
        exact, `sinkhorn` is approximate. `auto` takes the first that applies, with `lp` up to 48 labels on a CPU.
    check
        Whether to refuse rows that are not distributions within 1e-3.
    report
        Whether to return a `TransportReport` with certified bounds, in O(classes^2) memory per pair.

    Raises
    ------
    ValueError, TypeError, GroundCostError, SoftLabelsError
        If shapes, devices or types do not fit, the solver does not apply, or a row is not a distribution.

    Examples
    --------
    >>> cost = [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    >>> transport_cost(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.5]]), cost).tolist()
    [1.5]
    """
    known = ground_cost if isinstance(ground_cost, GroundCost) else check_ground_cost(ground_cost)
    check_pairs(a, b, len(known))
    if check:
        _check_values(a, b)
    first, second = _pairs(a, b)
    chosen = choose_solver(known, solver, first.device)
    with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
        solution = solve_pairs(first, second, known, solver=chosen, accuracy=accuracy)
    cost = _with_gradient(solution, first, second).reshape(b.shape[:-1])
    return _report(cost, solution, first.detach(), second.detach(), known, chosen) if report else cost


def _with_gradient(solution: Solution, a: Rows, b: Rows) -> Float[torch.Tensor, "pairs"]:
    """Return the cost with the gradient `<f, da> + <g, db>`: `moved` is the same sum, detached."""
    moved = (solution.f * a.detach()).sum(dim=1) + (solution.g * b.detach()).sum(dim=1)
    return (solution.cost - moved) + (solution.f * a).sum(dim=1) + (solution.g * b).sum(dim=1)


def _pairs(a: torch.Tensor, b: torch.Tensor) -> tuple[Rows, Rows]:
    """Normalise both sides, and repeat the student's rows for each teacher."""
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    student, teachers = _normalised(a.to(dtype)), _normalised(b.to(dtype))
    student = student if b.ndim == 2 else student[:, None].expand_as(teachers)
    return student.reshape(-1, b.shape[-1]), teachers.reshape(-1, b.shape[-1])


def _report(
    cost: torch.Tensor, solution: Solution, a: Rows, b: Rows, ground_cost: GroundCost, solver: str
) -> TransportReport:
    matrix = ground_cost.to(a.device, torch.float64).matrix
    shared = torch.minimum(a, b).double() if ground_cost.metric else torch.zeros_like(a, dtype=torch.float64)
    more, less = a.double() - shared, b.double() - shared
    found, f, g = solution.sinkhorn, solution.f.double(), solution.g.double()
    lower = potential_bound(more, less, f, g, matrix)
    upper = plan_cost(more, less, f, g, matrix) if found is not None else solution.cost.double()
    return TransportReport(
        cost=cost,
        lower=lower.to(a).reshape(cost.shape),
        upper=upper.to(a).reshape(cost.shape),
        solver=solver,
        iterations=found.iterations if found else 0,
        marginal_error=max(found.marginal_error.tolist(), default=0.0) if found else 0.0,
    )


def _check_values(a: torch.Tensor, b: torch.Tensor) -> None:
    for side, rows in (("a", a), ("b", b)):
        wrong = ~((rows.double().sum(dim=-1) - 1).abs() <= ATOL) | (rows < -ATOL).any(dim=-1)
        if wrong.any():
            place = [int(index) for index in wrong.nonzero()[0]]
            row = rows[tuple(place)].double()
            where = f"row {place[0]}" + (f", teacher {place[1]}" if len(place) > 1 else "")
            raise SoftLabelsError(
                f"{side}: {where} sums to {float(row.sum()):.4f} with a lowest entry of {float(row.min()):.4f},"
                " expected a distribution; apply softmax first"
            )


def _normalised(rows: Float[torch.Tensor, "*rows classes"]) -> Float[torch.Tensor, "*rows classes"]:
    positive = rows.clamp(min=0)
    return positive / positive.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
