"""Sinkhorn divergence: between optimal transport and a kernel distance, and smooth."""

import torch
from jaxtyping import Float
from typing_extensions import override

from knot_fed.losses.interface import PairwiseLoss
from knot_fed.transport import GroundCost, sinkhorn_divergence
from knot_fed.transport.checks import check_prepared


class SinkhornDivergence(PairwiseLoss):
    """`D(a, q) = OT_eps(a, q) - OT_eps(a, a) / 2 - OT_eps(q, q) / 2` (Feydy et al. 2019).

    Parameters
    ----------
    ground_cost
        Prepared ground cost.
    entropic_epsilon
        As a share of the largest ground cost, > 0. Towards 0 this is the transport loss, which is had exactly and
        faster; the blur is what sets this loss apart.
    """

    def __init__(self, ground_cost: GroundCost, *, entropic_epsilon: float) -> None:
        super().__init__()
        check_prepared(ground_cost)
        self.ground_cost = ground_cost
        self.classes = len(ground_cost)
        self.entropic_epsilon = entropic_epsilon

    @override
    def divergences(
        self,
        log_student: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples teachers classes"],
    ) -> Float[torch.Tensor, "examples teachers"]:
        return sinkhorn_divergence(
            log_student.exp(), soft_labels, self.ground_cost, entropic_epsilon=self.entropic_epsilon
        )
