"""The distillation loss: weighted transport cost from the student's soft labels to the teachers'."""

import torch
from jaxtyping import Float
from torch import nn

from knot_fed.transport.cost import transport_cost
from knot_fed.transport.ground_cost import GroundCost


class OTLoss(nn.Module):
    """Mean over examples of `sum_k w_k W(softmax(logits), q_k)` (KNOT, COLING 2022, its eq. for the student).

    Parameters
    ----------
    ground_cost
        A metric between labels.
    solver, entropic_epsilon
        As in `transport_cost`.

    Examples
    --------
    >>> from knot_fed.labels import LabelSpace
    >>> from knot_fed.transport import make_ground_cost
    >>> loss = OTLoss(make_ground_cost("semantic", LabelSpace.preset("nli")))
    >>> round(float(loss(torch.zeros(1, 3), torch.tensor([[[0.0, 1.0, 0.0]]]), torch.ones(1, 1))), 2)
    0.67
    """

    def __init__(self, ground_cost: GroundCost, *, solver: str = "auto", entropic_epsilon: float = 0.005) -> None:
        super().__init__()
        self.ground_cost = ground_cost
        self.solver = solver
        self.entropic_epsilon = entropic_epsilon

    def forward(
        self,
        logits: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples teachers classes"],
        weights: Float[torch.Tensor, "examples teachers"],
    ) -> Float[torch.Tensor, ""]:
        """Return the loss; differentiable in the logits.

        Raises
        ------
        GroundCostError
            If the solver does not apply, or the classes do not fit.
        """
        costs = transport_cost(
            torch.softmax(logits.float(), dim=1),
            soft_labels,
            self.ground_cost,
            solver=self.solver,
            entropic_epsilon=self.entropic_epsilon,
        )
        return (weights.to(costs) * costs).sum(dim=1).mean()
