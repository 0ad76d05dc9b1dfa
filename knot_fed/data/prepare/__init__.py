"""Data sets of the hub, made into the project's own files."""
