"""The attacks, one file each, and the registry of them."""
