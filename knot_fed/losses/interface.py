"""What every distillation loss is: a call with logits, soft labels and weights that returns one number."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import nn

from knot_fed.transport.checks import Batch

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits (B, L), soft labels (B, K, L) and weights (B, K) to a scalar, differentiable in the logits.

The scalar is the mean over examples of `sum_k w_k D(a, q_k)`, a = softmax(logits). A row of weights may sum to any
number >= 0, and the loss is linear in it: this is how one text counts for more than another. A user's own function
does the same.
"""

SMALLEST_PROBABILITY = 1e-8
"""Soft labels below it are read as this where a divergence takes their logarithm."""


class PairwiseLoss(nn.Module):
    """Mean over examples of `sum_k w_k D(a, q_k)`, for a divergence D that a subclass gives.

    Computed in float64 for float64 logits, else in float32; differentiable in the logits. An empty batch has the
    loss 0.
    """

    classes: int | None = None
    """Number of labels that the divergence is for; None: any."""

    def forward(
        self,
        logits: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples *teachers classes"] | Int[torch.Tensor, "examples"],
        weights: torch.Tensor | None = None,
    ) -> Float[torch.Tensor, ""]:
        """Return the loss of the arguments that `OTLoss` takes.

        Raises
        ------
        ValueError, TypeError, IndexError
            If shapes, devices, types or hard labels do not fit, as `knot_fed.transport.checks.Batch` says.
        """
        batch = Batch(logits, soft_labels, weights, classes=self.classes)
        log_student = torch.log_softmax(batch.logits, dim=1)
        rows = (batch.weights * self.divergences(log_student, batch.soft_labels)).sum(dim=1)
        return rows.mean() if batch.examples else rows.sum()

    def divergences(
        self,
        log_student: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples teachers classes"],
    ) -> Float[torch.Tensor, "examples teachers"]:
        """Return D of the student's distribution, given by its logarithm, and each teacher's."""
        raise NotImplementedError
