"""What a run says in its log that commands read again: the server writes these lines, a run's watcher knows them.

An event is one line of `key=value` pairs, `event` and `time` first; a value with a space or a quote is a JSON string.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARKER = "knot_fed: "
"""Before every line of knot_fed in a stream that Flower shares."""
FAILURE = "the run failed: "
TABLE = "the table: "
LOG_FILE = "run.log"
"""The same lines in the run folder."""
_PAIR = re.compile(r'([a-z-]+)=("(?:[^"\\]|\\.)*"|\S+)')
_BARE = re.compile(r"[^\s\"=]+")

logger = logging.getLogger("knot_fed")


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


def log_event(event: str, level: int = logging.INFO, **facts: object) -> None:
    """Log one event with its facts and the time, in UTC.

    Parameters
    ----------
    event
        What happened: `sent`, `received`, `started`.
    level
        Of the record.
    **facts
        Nothing private; None where a fact is not known.
    """
    told = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}
    logger.log(level, "%s", " ".join(f"{key.replace('_', '-')}={_value(value)}" for key, value in told.items()))


def read_event(line: str) -> dict[str, str] | None:
    """Read a line of the log as `log_event` wrote it, or return None where it is another one; `-` is not known.

    Examples
    --------
    >>> read_event('knot_fed: event=sent time=2026-01-01T00:00:00Z outcome="not now"')["outcome"]
    'not now'
    >>> read_event("knot_fed: 3 node(s) joined")
    """
    _, found, pairs = line.partition(f"{MARKER}event=")
    if not found:
        return None
    try:
        return {
            key: json.loads(value) if value.startswith('"') else value for key, value in _PAIR.findall(f"event={pairs}")
        }
    except ValueError:
        return None


def is_routine(line: str) -> bool:
    """Tell whether a line is an event in which nothing went wrong."""
    event = read_event(line)
    return event is not None and event.get("outcome", "ok") == "ok"


def log_to(file: Path | None = None) -> None:
    """Send knot_fed's own log to standard output, and to a file beside it; a file of before is closed."""
    for handler in logger.handlers:
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    handlers += [_FileHandler(file, encoding="utf-8")] if file else []
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"{MARKER}%(message)s"))
    logger.handlers = handlers
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _FileHandler(logging.FileHandler):
    """A full disk stops no run for a line of its log; what the run itself has to write tells of it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        del record


def _value(value: object) -> str:
    text = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)
