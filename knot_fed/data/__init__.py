"""Private files, transfer sets, partitions and the built-in reviews."""
