"""What a run says in its log that commands read again: the server writes these lines, a run's watcher knows them."""

import json
from collections.abc import Mapping
from typing import Any

MARKER = "knot_fed: "
"""Before every line of knot_fed in a stream that Flower shares."""
FAILURE = "the run failed: "
TABLE = "the table: "


def table_line(facts: Mapping[str, Any]) -> str:
    """Return what the table at the end shows as one line, so that it reaches whoever watches the run."""
    return TABLE + json.dumps(facts, sort_keys=True)


def read_table_line(line: str) -> dict[str, Any] | None:
    """Read a line of the log as `table_line` wrote it, or return None where it is another one."""
    _, found, facts = line.partition(MARKER + TABLE)
    try:
        read = json.loads(facts) if found else None
    except ValueError:
        return None
    return read if isinstance(read, dict) else None
