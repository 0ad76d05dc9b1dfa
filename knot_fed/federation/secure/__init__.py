"""The secure sum (Bonawitz et al. 2017): keys, messages, both sides, and the strategy."""
