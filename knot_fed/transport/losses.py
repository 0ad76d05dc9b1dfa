"""The distillation loss: weighted transport cost from the student's soft labels to the teachers'."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.autograd.function import once_differentiable

from knot_fed.transport.checks import Batch, check_prepared
from knot_fed.transport.ground_cost import GroundCost
from knot_fed.transport.solve import DEFAULT, Accuracy, choose_solver, solve_pairs

RowsAndGradient: TypeAlias = tuple[Float[torch.Tensor, "examples"], Float[torch.Tensor, "examples classes"]]


class OTLoss(nn.Module):
    """Mean over examples of `sum_k w_k W(softmax(logits), q_k)`, the student's loss in KNOT (COLING 2022).

    Differentiable once, in the logits: the gradient is computed with the value (envelope theorem). Inputs of any
    floating types are read in float32. An empty batch has loss 0. Up to 8 labels, one fused kernel computes the exact
    cost and its gradient, by Numba on a CPU and by Triton on a GPU; `fused` says whether it applies.

    Parameters
    ----------
    ground_cost
        As `make_ground_cost` or `check_ground_cost` return it.
    solver, accuracy
        As in `transport_cost`.
    reduction
        `mean` over examples, or `none`: one loss per example.

    Raises
    ------
    GroundCostError
        If the solver does not apply to the ground cost.
    TypeError
        If the ground cost is a bare matrix.
    ValueError
        If there is no such reduction.

    Examples
    --------
    >>> from knot_fed.labels import LabelSpace
    >>> from knot_fed.transport import make_ground_cost
    >>> loss = OTLoss(make_ground_cost("semantic", LabelSpace.preset("nli")))
    >>> loss
    OTLoss(3 labels, solver=line, fused)
    >>> round(float(loss(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]]))), 2)
    0.67
    >>> round(float(loss(torch.zeros(1, 3), torch.tensor([1]))), 2)
    0.67
    """

    def __init__(
        self,
        ground_cost: GroundCost,
        *,
        solver: str = "auto",
        accuracy: Accuracy = DEFAULT,
        reduction: Literal["mean", "none"] = "mean",
    ) -> None:
        super().__init__()
        check_prepared(ground_cost)
        if reduction not in ("mean", "none"):
            raise ValueError(f"{reduction!r} is not a valid value for reduction; use 'mean' or 'none'")
        self.ground_cost = ground_cost
        self.solver = solver
        self.accuracy = accuracy
        self.reduction = reduction
        table = ground_cost.table
        exact = choose_solver(ground_cost, solver, torch.device("cpu")) in ("line", "star", "table")
        self.fused = exact and table is not None and table.merge is None

    def forward(
        self,
        logits: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples *teachers classes"] | Int[torch.Tensor, "examples"],
        weights: torch.Tensor | None = None,
    ) -> Float[torch.Tensor, "*examples"]:
        """Return the loss; gradients flow to the logits only.

        Parameters
        ----------
        logits
            Of the student.
        soft_labels
            One distribution per example, or one per example and teacher; or true labels, as in `cross_entropy`. Not
            normalised: rounding errors of the row sums change the cost by as much.
        weights
            Client weights, (teachers,) or (examples, teachers); None: equal weights that sum to 1.

        Raises
        ------
        ValueError, TypeError, IndexError
            If shapes, devices, types or hard labels do not fit; see `checks.Batch`. Nothing is broadcast.
        """
        batch = Batch(logits, soft_labels, weights, classes=len(self.ground_cost), dtype=torch.float32)
        kernel = _fused_kernel(logits.device.type) if self.fused else None
        if kernel is not None:
            rows, solve = batch.logits, lambda _: kernel(batch, self.ground_cost.to(logits.device, torch.float32))
        else:
            rows, solve = torch.softmax(batch.logits, dim=1), lambda a: self._rows(a, batch)
        loss: torch.Tensor = _WithGradient.apply(rows, solve, self.reduction == "mean")  # type: ignore[no-untyped-call]
        return loss

    def extra_repr(self) -> str:
        """Show the solver that runs on a CPU."""
        solver = choose_solver(self.ground_cost, self.solver, torch.device("cpu"))
        return f"{len(self.ground_cost)} labels, solver={solver}" + (", fused" if self.fused else "")

    def _rows(self, a: Float[torch.Tensor, "examples classes"], batch: Batch) -> RowsAndGradient:
        teachers, weights = batch.soft_labels, batch.weights
        solver = choose_solver(self.ground_cost, self.solver, a.device)
        with torch.autocast(a.device.type, enabled=False):
            solution = solve_pairs(a[:, None], teachers, self.ground_cost, solver=solver, accuracy=self.accuracy)
            gradient = torch.bmm(weights[:, None], solution.f.view(teachers.shape))[:, 0]  # sum_k w_k f_k
        return (weights * solution.cost.view(weights.shape)).sum(dim=1), gradient


class _WithGradient(torch.autograd.Function):
    """One value per row, or their mean, of a function that returns its gradient with its value."""

    @staticmethod
    def forward(
        ctx: Any, rows: Float[torch.Tensor, "examples classes"], solve: Callable[..., RowsAndGradient], mean: bool
    ) -> torch.Tensor:
        values, gradient = solve(rows.detach())
        ctx.save_for_backward(gradient)
        ctx.mean = mean
        if not mean:
            return values
        return values.mean() if len(values) else values.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * (upstream / max(1, len(gradient)) if ctx.mean else upstream[:, None]), None, None


@cache
def _fused_kernel(device: str) -> Callable[..., RowsAndGradient] | None:
    """Import the fused kernel of a device type, and its compiler, on first use; None: use torch."""
    if device == "cuda":
        from knot_fed.transport.solvers import gpu_kernel

        return gpu_kernel.fused_table_loss
    if device == "cpu":
        from knot_fed.transport.solvers import cpu_kernel

        return cpu_kernel.fused_table_loss
    return None
