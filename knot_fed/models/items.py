"""Encoded texts by position, as batches take them, and ragged ones in a few arrays instead of an object a text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex, overload

import numpy as np
from jaxtyping import Int, Integer
from typing_extensions import override

from knot_fed.models.text_classifier import Item


def take(items: Sequence[Item], rows: Int[np.ndarray, "rows"] | Sequence[int]) -> Sequence[Item]:
    """Return the items at integer positions, as `TextClassifier.collate` accepts them; ragged ones are not copied."""
    return items.take(rows) if isinstance(items, RaggedItems) else [items[row] for row in rows]


def longest_first(items: Sequence[Item], length_of: Callable[[Item], int]) -> Int[np.ndarray, "items"]:
    """Return the positions of the items from the longest to the shortest, those of one length in order."""
    if isinstance(items, RaggedItems):
        lengths = items.lengths()
    else:
        lengths = np.fromiter(map(length_of, items), np.int64, len(items))
    return np.argsort(-lengths, kind="stable")


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of numbers of any length, one after another in `values`, which several selections of rows share."""

    values: Integer[np.ndarray, "numbers"]
    starts: Int[np.ndarray, "rows"]
    sizes: Int[np.ndarray, "rows"]

    @classmethod
    def of_sizes(cls, values: Integer[np.ndarray, "numbers"], sizes: Int[np.ndarray, "rows"]) -> "Ragged":
        """Cut all values into rows of these sizes."""
        return cls(values, np.cumsum(sizes) - sizes, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def row(self, place: int) -> Integer[np.ndarray, "of_row"]:
        """Return one row, without a copy."""
        row: Integer[np.ndarray, of_row] = self.values[self.starts[place] : self.starts[place] + self.sizes[place]]
        return row

    def select(self, rows: Int[np.ndarray, "chosen"] | slice) -> "Ragged":
        """Return some rows, which share the values."""
        return Ragged(self.values, self.starts[rows], self.sizes[rows])

    def joined(self) -> Integer[np.ndarray, "numbers"]:
        """Return the numbers of all rows, one row after another.

        Examples
        --------
        >>> rows = Ragged.of_sizes(np.array([7, 8, 9]), np.array([1, 0, 2]))
        >>> rows.select(np.array([2, 1, 0])).joined().tolist()
        [8, 9, 7]
        """
        before = np.cumsum(self.sizes) - self.sizes
        places = np.repeat(self.starts - before, self.sizes)
        places += np.arange(len(places))
        numbers: Integer[np.ndarray, numbers] = self.values[places]
        return numbers


class RaggedItems(Sequence[Item]):
    """A sequence of items that are tuples of arrays: one array of numbers for each text of an example."""

    def __init__(self, sides: tuple[Ragged, ...]) -> None:
        self.sides = sides

    @override
    def __len__(self) -> int:
        return len(self.sides[0])

    @overload
    def __getitem__(self, place: SupportsIndex) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> "RaggedItems": ...
    @override
    def __getitem__(self, place: SupportsIndex | slice) -> Item:
        if isinstance(place, slice):
            return RaggedItems(tuple(side.select(place) for side in self.sides))
        return tuple(side.row(int(place)) for side in self.sides)

    def take(self, rows: Int[np.ndarray, "rows"] | Sequence[int]) -> "RaggedItems":
        """Return the items at these positions, which share the numbers."""
        places = np.asarray(rows, dtype=np.int64)
        return RaggedItems(tuple(side.select(places) for side in self.sides))

    def lengths(self) -> Int[np.ndarray, "items"]:
        """Return how many numbers each item has, on all sides."""
        lengths: Int[np.ndarray, items] = np.sum([side.sizes for side in self.sides], axis=0)
        return lengths
