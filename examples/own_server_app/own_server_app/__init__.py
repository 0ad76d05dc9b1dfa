"""A Flower app of one's own around knot_fed's strategy."""
