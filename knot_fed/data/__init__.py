"""Private files, transfer sets, their partition, and the built-in reviews."""
