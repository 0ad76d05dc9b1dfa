"""Encoded texts by position, as batches take them."""

from collections.abc import Sequence

from knot_fed.models.text_classifier import Item, Positions


def take(items: Sequence[Item], rows: Positions) -> Sequence[Item]:
    """Return the items at integer positions, as `TextClassifier.collate` accepts them."""
    return [items[row] for row in rows]
