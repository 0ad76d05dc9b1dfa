"""Solvers of the transport problem: exact ones, Sinkhorn, and their compiled loops."""
