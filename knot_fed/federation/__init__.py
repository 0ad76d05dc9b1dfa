"""The only package, besides the apps, that knows Flower."""
