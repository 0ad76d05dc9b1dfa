"""A custom Flower app that uses knot_fed's strategy."""
