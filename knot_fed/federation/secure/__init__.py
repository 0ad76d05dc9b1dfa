"""The secure sum (Bonawitz et al. 2017): keys, messages, and both sides."""
