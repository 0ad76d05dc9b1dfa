"""Mean squared error of probabilities."""

import torch
from jaxtyping import Float
from typing_extensions import override

from knot_fed.losses.interface import PairwiseLoss


class MeanSquaredError(PairwiseLoss):
    """`D(a, q) = |a - q|^2 / classes`, of probabilities and not of logits, which clients never send."""

    @override
    def divergences(
        self,
        log_student: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples teachers classes"],
    ) -> Float[torch.Tensor, "examples teachers"]:
        return (log_student.exp()[:, None] - soft_labels).square().mean(dim=2)
