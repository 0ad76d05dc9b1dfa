"""What `knot-fed check-data` finds in a file."""
