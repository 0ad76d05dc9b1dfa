"""Real clients: what an operator and a data owner call around a deployed federation."""
