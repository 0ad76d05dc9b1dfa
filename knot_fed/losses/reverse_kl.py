"""Reverse KL divergence: the student settles on one of the teachers' opinions."""

import torch
from jaxtyping import Float
from typing_extensions import override

from knot_fed.losses.interface import SMALLEST_PROBABILITY, PairwiseLoss


class ReverseKL(PairwiseLoss):
    """`D(a, q) = KL(a || q)`: large where the student has mass and the teacher none (MiniLLM, Gu et al. 2024)."""

    @override
    def divergences(
        self,
        log_student: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples teachers classes"],
    ) -> Float[torch.Tensor, "examples teachers"]:
        log_teachers = soft_labels.clamp(min=SMALLEST_PROBABILITY).log()
        return (log_student.exp()[:, None] * (log_student[:, None] - log_teachers)).sum(dim=2)
