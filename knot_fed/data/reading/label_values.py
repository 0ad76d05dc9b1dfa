"""The values of a label column as indices: by name, or by position if no value is a name."""

import re

import numpy as np
from jaxtyping import Int

from knot_fed.data.reading.table import Table, missing_column
from knot_fed.errors import DataError, shown
from knot_fed.labels import LabelSpace

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
BOOLEANS = "for true and false set labels.names = 'false, true'"


def read_labels(table: Table, column: str, labels: LabelSpace, *, name: str) -> tuple[Int[np.ndarray, "examples"], str]:
    """Return each row's label as an index, and a sentence on how labels were read if it was not by name.

    A value matches a label name as text or as a number: `1` and `1.0` both match the name `1`. Values are read as
    positions only if no row matches a name and all are whole numbers from 0 to L - 1.

    Raises
    ------
    DataError
        If the column is missing, a row has another value, or some rows are names and others positions.
    """
    values = labels_of(table, column, name=name)
    known = _known(labels.names)
    named = np.array([_named(value, known) for value in values], dtype=np.int64)
    if (named >= 0).all():
        return named, ""
    by_position: dict[float | None, int] = {float(place): place for place in range(len(labels))}
    placed = np.array([by_position.get(number_of(value), -1) for value in values], dtype=np.int64)
    if (named < 0).all() and (placed >= 0).all():
        last = len(labels) - 1
        start = "" if (placed == 0).any() else "; no row is 0: if they count from 1, set labels.names"
        names = shown(labels.names[0]), shown(labels.names[last])
        return placed, f"labels are numbers by position, 0 for {names[0]} to {last} for {names[1]}{start}"
    outside = np.flatnonzero((named < 0) & (placed < 0))
    where = f"{name}: column {column!r}: "
    if not len(outside):
        odd = np.flatnonzero(named < 0)
        raise DataError(
            f"{where}{len(odd)} of {len(values)} rows are numbers from 0 to {len(labels) - 1}, while the"
            f" others are label names ({table.at(odd.tolist())}); write names in all rows",
            refusal="the label column mixes names and numbers",
        )
    booleans = any(isinstance(values[row], bool) for row in outside)
    raise DataError(
        f"{where}{len(outside)} of {len(values)} rows are neither a label name nor 0..{len(labels) - 1}"
        f" ({table.at(outside.tolist())}); {BOOLEANS if booleans else 'correct these rows, or set labels.names'}",
        refusal="the label column has values outside the run's labels",
    )


def labels_of(table: Table, column: str, *, name: str) -> list[object]:
    """Return the values of the label column; raise `DataError` if it is missing."""
    if column not in table.columns:
        message = missing_column(table, f"column {column!r} for the label", name=name, key="data.label")
        raise DataError(message, refusal="no label column")
    return table.columns[column]


def number_of(value: object) -> float | None:
    """Return a value, or the ASCII number that it spells, as a float; None if it is not a number.

    Examples
    --------
    >>> number_of("1.0"), number_of(" 2"), number_of("1_0"), number_of(True)
    (1.0, 2.0, None, None)
    """
    spelt = "" if isinstance(value, bool) else str(value).strip()
    return float(spelt) if NUMBER.fullmatch(spelt) else None


def _known(names: tuple[str, ...]) -> dict[str | float, int]:
    """Map each name, and each number that is the name of only one label, to its index."""
    numbers = [number_of(name) for name in names]
    known: dict[str | float, int] = {
        number: index for index, number in enumerate(numbers) if number is not None and numbers.count(number) == 1
    }
    return known | {name: index for index, name in enumerate(names)}


def _named(value: object, known: dict[str | float, int]) -> int:
    if value is None or value != value:  # null and NaN are not names
        return -1
    spelt = str(value).lower() if isinstance(value, bool) else str(value).strip()
    if spelt in known:
        return known[spelt]
    number = number_of(value)
    return -1 if number is None else known.get(number, -1)
