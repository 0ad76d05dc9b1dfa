"""The transport cost between soft labels: one call over every solver."""

import torch
from jaxtyping import Float

from knot_fed.errors import GroundCostError
from knot_fed.transport.exact import line_potentials, program_potentials, table_potentials
from knot_fed.transport.ground_cost import GroundCost
from knot_fed.transport.sinkhorn import sinkhorn_potentials


def transport_cost(
    a: Float[torch.Tensor, "examples classes"],
    b: Float[torch.Tensor, "examples *teachers classes"],
    ground_cost: GroundCost,
    *,
    solver: str = "auto",
    entropic_epsilon: float = 0.005,
) -> Float[torch.Tensor, "examples *teachers"]:
    """Return the cost of moving each distribution `a` onto `b`: `min_P <P, C>` over plans with these marginals.

    Differentiable in `a`; potentials are detached (Danskin). Both sides are normalised first, which takes away the
    rounding of float32 and the arbitrary constant of the potential. Computed in float64, returned in `a`'s type.

    Parameters
    ----------
    a
        Student's distributions.
    b
        Teachers' distributions, one or several for each example.
    ground_cost
        A metric between labels.
    solver
        `line`, `table` and `lp` are exact; `sinkhorn` is for many labels; `auto` takes the first of line, table and
        sinkhorn that applies.
    entropic_epsilon
        Of `sinkhorn`, as a share of the largest ground cost, > 0.

    Raises
    ------
    GroundCostError
        If the solver does not apply to the ground cost, or the classes do not fit.

    Examples
    --------
    >>> from knot_fed.labels import LabelSpace
    >>> from knot_fed.transport import make_ground_cost
    >>> cost = make_ground_cost("semantic", LabelSpace.preset("nli"))
    >>> transport_cost(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.5]]), cost).tolist()
    [1.5]
    """
    classes = len(ground_cost.matrix)
    if a.shape[-1] != classes or b.shape[-1] != classes:
        raise GroundCostError(
            f"{a.shape[-1]} and {b.shape[-1]} classes for a ground cost of {classes}; use one label space"
        )
    student = _normalised(a.double())
    teachers = _normalised(b.detach().double())
    difference = (student if b.ndim == 2 else student[:, None]) - teachers
    pairs = difference.reshape(-1, classes)
    potentials = _potentials(pairs.detach(), ground_cost, solver, entropic_epsilon * ground_cost.diameter)
    return (potentials * pairs).sum(dim=1).reshape(difference.shape[:-1]).to(a.dtype)


def _potentials(
    difference: Float[torch.Tensor, "pairs classes"], ground_cost: GroundCost, solver: str, entropic_epsilon: float
) -> Float[torch.Tensor, "pairs classes"]:
    if solver in ("auto", "line") and ground_cost.line is not None:
        return line_potentials(difference, ground_cost.line.to(difference.device))
    if solver in ("auto", "table") and ground_cost.table is not None:
        return table_potentials(difference, ground_cost.table.to(difference.device))
    if solver == "lp":
        return program_potentials(difference, ground_cost.matrix)
    if solver in ("auto", "sinkhorn"):
        matrix = ground_cost.matrix.to(difference.device)
        return sinkhorn_potentials(difference, matrix, entropic_epsilon=entropic_epsilon)
    if solver in ("line", "table"):
        raise GroundCostError(f"solver {solver!r} does not apply to this ground cost; use auto, sinkhorn or lp")
    raise GroundCostError(f"no solver {solver!r}; use auto, line, table, sinkhorn or lp")


def _normalised(rows: Float[torch.Tensor, "*rows classes"]) -> Float[torch.Tensor, "*rows classes"]:
    return rows / rows.sum(dim=-1, keepdim=True)
