"""The values of a label column as indices: by name, or else, where no name fits, by position."""

import re

import numpy as np
from jaxtyping import Int

from knot_fed.data.reading.table import Table, missing_column
from knot_fed.errors import DataError, shown
from knot_fed.labels import LabelSpace

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
BOOLEANS = "for true and false set labels.names = 'false, true'"


def read_labels(table: Table, column: str, labels: LabelSpace, *, name: str) -> tuple[Int[np.ndarray, "examples"], str]:
    """Return each row's label as an index, and in a sentence how, where it is not by name.

    A value is the label whose name it is, or whose name is the same number: `1` and `1.0` are the name `1`. Only where
    no row has a label's name, and all are whole numbers from 0 to L - 1, are they positions.

    Parameters
    ----------
    table, name
        The file.
    column
        The labels' column.
    labels
        The label space.

    Raises
    ------
    DataError
        If there is no such column, a row has another value, or some rows are names and others positions.
    """
    values = labels_of(table, column, name=name)
    known = _known(labels.names)
    named = np.array([_named(value, known) for value in values], dtype=np.int64)
    if (named >= 0).all():
        return named, ""
    placed = np.array([_placed(value, len(labels)) for value in values], dtype=np.int64)
    if (named < 0).all() and (placed >= 0).all():
        return placed, _by_position(placed, labels)
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
        f" ({table.at(outside.tolist())}); {BOOLEANS if booleans else 'mend these rows, or set labels.names'}",
        refusal="the label column has values outside the run's labels",
    )


def labels_of(table: Table, column: str, *, name: str) -> list[object]:
    """Return the values of the labels' column.

    Raises
    ------
    DataError
        If there is no such column.
    """
    if column not in table.columns:
        raise DataError(
            missing_column(table, f"column {column!r} for the label", name=name, key="data.label"),
            refusal="no label column",
        )
    return table.columns[column]


def number_of(value: object) -> float | None:
    """Return the number that a value is or spells in ASCII; None: none.

    Examples
    --------
    >>> number_of("1.0"), number_of(" 2"), number_of("1_0"), number_of(True)
    (1.0, 2.0, None, None)
    """
    spelt = "" if isinstance(value, bool) else str(value).strip()
    return float(spelt) if NUMBER.fullmatch(spelt) else None


def _known(names: tuple[str, ...]) -> dict[str | float, int]:
    """Return the index of each name, and of each number that is the name of one label only."""
    numbers = [number_of(name) for name in names]
    known: dict[str | float, int] = {
        number: index for index, number in enumerate(numbers) if number is not None and numbers.count(number) == 1
    }
    return known | {name: index for index, name in enumerate(names)}


def _named(value: object, known: dict[str | float, int]) -> int:
    if value is None or value != value:  # null, and NaN, are no names
        return -1
    spelt = str(value).lower() if isinstance(value, bool) else str(value).strip()
    if spelt in known:
        return known[spelt]
    number = number_of(value)
    return -1 if number is None else known.get(number, -1)


def _placed(value: object, count: int) -> int:
    number = number_of(value)
    return int(number) if number is not None and number.is_integer() and 0 <= number < count else -1


def _by_position(placed: Int[np.ndarray, "examples"], labels: LabelSpace) -> str:
    last = len(labels) - 1
    first_name, last_name = shown(labels.names[0]), shown(labels.names[last])
    start = "" if (placed == 0).any() else "; no row is 0: if they count from 1, set labels.names"
    return f"labels are numbers by position, 0 for {first_name} to {last} for {last_name}{start}"
