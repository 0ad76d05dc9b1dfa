"""Optimal transport between soft labels over one ground cost; usable on its own."""

from knot_fed.transport.cost import TransportReport, transport_cost
from knot_fed.transport.divergence import sinkhorn_divergence
from knot_fed.transport.ground_cost import GroundCost, check_ground_cost, make_ground_cost
from knot_fed.transport.losses import OTLoss
from knot_fed.transport.solve import Accuracy

__all__ = [
    "Accuracy",
    "GroundCost",
    "OTLoss",
    "TransportReport",
    "check_ground_cost",
    "make_ground_cost",
    "sinkhorn_divergence",
    "transport_cost",
]
