"""Files of one JSON object a line."""

import json
from collections.abc import Collection

from knot_fed.data.reading.table import Table
from knot_fed.errors import DataError


def read_json_lines(content: str, wanted: Collection[str] | None, *, name: str) -> Table:
    """Read the wanted keys of each object, None where one lacks it; wanted as None: all keys.

    Raises
    ------
    DataError
        If a line that is not blank is no JSON object, or has a wanted key twice.
    """
    rows: list[dict[str, object]] = []
    lines: list[int] = []
    broken: list[int] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            row = _object(line)
            rows.append(row if row is not None else {})
            lines.append(number)
            if row is None:
                broken.append(number)
    if broken:
        raise DataError(
            f"{name}: line {broken[0]}: {len(broken)} of {len(rows)} rows are not JSON objects; write one object a"
            " line, each key once",
            refusal="some rows are not JSON objects",
        )
    names = tuple(dict.fromkeys(key for row in rows for key in row))
    columns = {key: [row.get(key) for row in rows] for key in names if wanted is None or key in wanted}
    blank = content.rstrip().count("\n") + 1 - len(rows) if rows else 0
    return Table(columns, names, lines, layout=f"{len(rows)} rows and {blank} blank lines" if blank else "")


def _object(line: str) -> dict[str, object] | None:
    try:
        row = json.loads(line, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice")
    return made
