"""Distillation losses behind one interface: one file each, and a user's own by name."""

from knot_fed.losses.catalogue import BUILDERS, TRANSPORT_KEYS, make_loss
from knot_fed.losses.entropy import SymmetrisedKL
from knot_fed.losses.interface import Loss, PairwiseLoss
from knot_fed.losses.jensen_shannon import JensenShannon
from knot_fed.losses.kl import ForwardKL
from knot_fed.losses.mse import MeanSquaredError
from knot_fed.losses.own import try_loss
from knot_fed.losses.reverse_kl import ReverseKL
from knot_fed.losses.sinkhorn_divergence import SinkhornDivergence

__all__ = [
    "BUILDERS",
    "TRANSPORT_KEYS",
    "ForwardKL",
    "JensenShannon",
    "Loss",
    "MeanSquaredError",
    "PairwiseLoss",
    "ReverseKL",
    "SinkhornDivergence",
    "SymmetrisedKL",
    "make_loss",
    "try_loss",
]
