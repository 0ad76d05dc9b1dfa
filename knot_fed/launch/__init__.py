"""Handing the app to Flower, and watching its runs."""
