"""The columns of a file in memory, with the line of each row for error messages."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from knot_fed.errors import DataError

MOST_SHOWN = 20
LONGEST_COLUMN = 40
"""A longer name is probably a text in a file without a header, and is not shown."""
DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True, slots=True)
class Table:
    """The requested columns of a file, and all of its column names.

    `places` has the line of each row, or its number from 1 if `unit` is `row` instead of `line`. `layout` describes
    rows and lines if there is not exactly one line per row.
    """

    columns: dict[str, list[object]]
    names: tuple[str, ...]
    places: Sequence[int]
    unit: str = "line"
    layout: str = ""

    def __len__(self) -> int:
        return len(self.places)

    def at(self, rows: Sequence[int]) -> str:
        """Return the places of some rows, for a message.

        Examples
        --------
        >>> Table({}, (), [2, 3, 5, 9, 10]).at([0, 2, 3, 4])
        'lines 2, 5, 9 and 1 more'
        """
        first = ", ".join(str(self.places[row]) for row in rows[:3])
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        return f"{self.unit}{'s' if len(rows) > 1 else ''} {first}{more}"


def check_columns(names: Sequence[str], wanted: Collection[str], *, name: str) -> None:
    """Refuse a file in which a wanted column appears more than once."""
    twice = [column for column, count in Counter(names).items() if count > 1 and column in wanted]
    if twice:
        raise DataError(
            f"{name}: column {twice[0]!r} appears more than once in the header; rename one of them",
            refusal="a column appears more than once",
        )


def missing_column(table: Table, missing: str, *, name: str, key: str, options: bool = False) -> str:
    """Return the error for a missing column; it lists the file's columns, so it is for the owner only.

    `missing` describes what was not found, and `key` is the setting that names another column. With `options` the
    delimiter is an option of a command, not a key.
    """
    listed = [repr(column) if len(column) <= LONGEST_COLUMN else "a long one" for column in table.names[:MOST_SHOWN]]
    more = f" and {len(table.names) - MOST_SHOWN} more" if len(table.names) > MOST_SHOWN else ""
    there = f"it has {', '.join(listed)}{more}" if listed else "it has none"
    cut = [delimiter for delimiter in DELIMITERS if len(table.names) == 1 and delimiter in table.names[0]]
    remedy = f"check the header, or set {key}"
    if cut:
        remedy = f"give --delimiter {_in_shell(cut[0])}" if options else f"set data.delimiter = {json.dumps(cut[0])}"
    return f"{name}: no {missing}; {there}; {remedy}"


def _in_shell(delimiter: str) -> str:
    return "$'\\t'" if delimiter == "\t" else f"'{delimiter}'"
