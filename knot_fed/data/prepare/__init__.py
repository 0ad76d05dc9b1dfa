"""Conversion of hub data sets into the project's files."""
