"""Files with one JSON object per line."""

import json
from collections.abc import Collection

from knot_fed.data.reading.table import Table
from knot_fed.errors import DataError


def read_json_lines(content: str, wanted: Collection[str] | None, *, name: str) -> Table:
    """Read the wanted keys (None: all) of each object; a missing key is None.

    Raises `DataError` if a non-blank line is not a JSON object or repeats a key.
    """
    found = [(number, _object(line)) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    broken = [number for number, row in found if row is None]
    if broken:
        raise DataError(
            f"{name}: line {broken[0]}: {len(broken)} of {len(found)} rows are not JSON objects; write one object a"
            " line, each key once",
            refusal="some rows are not JSON objects",
        )
    rows = [row for _, row in found if row is not None]
    names = tuple(dict.fromkeys(key for row in rows for key in row))
    columns = {key: [row.get(key) for row in rows] for key in names if wanted is None or key in wanted}
    blank = content.rstrip().count("\n") + 1 - len(rows) if rows else 0
    layout = f"{len(rows)} rows and {blank} blank lines" if blank else ""
    return Table(columns, names, [number for number, _ in found], layout=layout)


def _object(line: str) -> dict[str, object] | None:
    try:
        row = json.loads(line, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key appears twice")
    return made
