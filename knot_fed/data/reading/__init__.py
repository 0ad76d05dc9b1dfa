"""Strict readers for data files."""
