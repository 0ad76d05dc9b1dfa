"""Template, style and script of a page, as Python strings: Flower's bundle of an app carries *.py files only."""
