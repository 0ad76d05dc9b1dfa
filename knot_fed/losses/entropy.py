"""Symmetrised KL divergence: the entropy-based baseline."""

import torch
from jaxtyping import Float
from typing_extensions import override

from knot_fed.losses.interface import SMALLEST_PROBABILITY, PairwiseLoss


class SymmetrisedKL(PairwiseLoss):
    """`D(a, q) = (KL(a || q) + KL(q || a)) / 2`: the entropy-based baseline of KNOT's public code."""

    @override
    def divergences(
        self,
        log_student: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples teachers classes"],
    ) -> Float[torch.Tensor, "examples teachers"]:
        log_teachers = soft_labels.clamp(min=SMALLEST_PROBABILITY).log()
        student = log_student.exp()[:, None]
        return ((student - soft_labels) * (log_student[:, None] - log_teachers)).sum(dim=2) / 2
