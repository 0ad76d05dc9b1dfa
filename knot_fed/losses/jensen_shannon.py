"""Jensen-Shannon divergence: symmetric, bounded, and finite where the supports differ."""

import torch
from jaxtyping import Float
from typing_extensions import override

from knot_fed.losses.interface import PairwiseLoss


class JensenShannon(PairwiseLoss):
    """`D(a, q) = (KL(a || m) + KL(q || m)) / 2` with `m = (a + q) / 2`, in [0, ln 2] (Lin 1991)."""

    @override
    def divergences(
        self,
        log_student: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples teachers classes"],
    ) -> Float[torch.Tensor, "examples teachers"]:
        student = log_student.exp()[:, None]
        log_middle = ((student + soft_labels) / 2).clamp(min=torch.finfo(student.dtype).tiny).log()
        from_student = student * (log_student[:, None] - log_middle)
        from_teachers = torch.xlogy(soft_labels, soft_labels) - soft_labels * log_middle
        return (from_student + from_teachers).sum(dim=2) / 2
