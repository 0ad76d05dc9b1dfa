"""All code that depends on undocumented parts of Flower."""
