"""Forward KL divergence: plain distillation."""

import torch
from jaxtyping import Float
from typing_extensions import override

from knot_fed.losses.interface import PairwiseLoss


class ForwardKL(PairwiseLoss):
    """`D(a, q) = KL(q || a)`: distillation by cross-entropy to the teacher's soft labels (Hinton et al. 2015).

    Its gradient is that of `KL(sum_k w_k q_k || a)`, so that both objectives, pooled and per teacher, are the same.
    """

    @override
    def divergences(
        self,
        log_student: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples teachers classes"],
    ) -> Float[torch.Tensor, "examples teachers"]:
        return (torch.xlogy(soft_labels, soft_labels) - soft_labels * log_student[:, None]).sum(dim=2)
