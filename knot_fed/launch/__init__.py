"""Submits the app to Flower and watches its runs."""
