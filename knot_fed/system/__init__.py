"""The machine, its processes and its terminal."""
