"""The checks of `knot-fed check-data`."""
