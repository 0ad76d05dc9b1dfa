"""Optimal transport between soft labels over one ground cost; usable on its own."""

from knot_fed.transport.cost import transport_cost
from knot_fed.transport.ground_cost import GroundCost, check_ground_cost, make_ground_cost
from knot_fed.transport.losses import OTLoss

__all__ = ["GroundCost", "OTLoss", "check_ground_cost", "make_ground_cost", "transport_cost"]
