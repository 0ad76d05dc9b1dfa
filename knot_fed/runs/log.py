r"""The one form of a line in knot_fed's log: written by one function, read by one strict parser.

    knot_fed: event=note time=2026-01-01T00:00:00Z text="round 1: 4 of 4 clients answered"

A line is the marker and `key=value` pairs, `event` first, each key once. A value is bare printable ASCII, or a JSON
string in ASCII; `-` is not known. So no text, whatever a peer has put into it, ends its value or its line.

Others may write to the stream of a server app. Its lines there end with a seal of 128 random bits, which the app draws
and writes into its first line, `event=opened`, before it has met a client.
"""

import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "knot_fed: "
"""Before every line of knot_fed in a stream that Flower shares."""
LOG_FILE = "run.log"
"""The same lines in the run folder."""
NOTE, OPENED, RESULT, FAILED = "note", "opened", "result", "failed"
STARTED, SENT, RECEIVED = "started", "sent", "received"
LONGEST_PHASE = 40
PHASES = {"query": "handshake", "train": "teachers answer", "evaluate": "evaluation"}
"""By the kind of message that is under way."""
_BARE = re.compile(r"[!#-<>-~]+")
_PAIR = re.compile(
    r'([a-z][a-z0-9-]*)=(?:([!#-<>-~]+)|("(?:[ !#-\[\]-~]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"))(?: (?=.)|\Z)'
)
_COUNT = re.compile(r"[0-9]{1,20}")
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")

logger = logging.getLogger("knot_fed")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line as it was read: the event, and what is known of it by key."""

    event: str
    facts: dict[str, str]

    def text(self, key: str) -> str:
        """Return a value; empty where it is not known."""
        return self.facts.get(key, "")

    def count(self, key: str) -> int:
        """Return a value as a number from 0 on; 0 where it is not a number."""
        return int(self.text(key)) if _COUNT.fullmatch(self.text(key)) else 0

    def number(self, key: str) -> float:
        """Return a value as a decimal number from 0 on; 0 where it is not a number."""
        return float(self.text(key)) if _NUMBER.fullmatch(self.text(key)) else 0.0

    def table(self) -> dict[str, Any] | None:
        """Return what the table of a `result` shows, or None where the line holds none."""
        try:
            read = json.loads(self.text("table"))
        except (ValueError, RecursionError):
            return None
        return read if isinstance(read, dict) else None


@dataclass(frozen=True, slots=True)
class _Event:
    """What a log record holds in the place of a message."""

    facts: dict[str, object]

    def __str__(self) -> str:
        return _pairs(self.facts)


def write_line(facts: Mapping[str, object]) -> str:
    """Return facts as one line; this is the only place where a text enters one.

    Parameters
    ----------
    facts
        By key, `event` first; None where a fact is not known.
    """
    return MARKER + _pairs(facts)


def read_line(line: str) -> LogLine | None:
    r"""Read a line as `write_line` wrote it, or return None where the whole line is not one.

    Examples
    --------
    >>> read_line('knot_fed: event=sent time=2026-01-01T00:00:00Z texts=- outcome="not now"').facts
    {'time': '2026-01-01T00:00:00Z', 'outcome': 'not now'}
    >>> read_line('node 7 refused: knot_fed: event=sent outcome=ok')
    """
    facts: dict[str, str | None] = {}
    place = len(MARKER) if line.startswith(MARKER) else len(line)
    while place < len(line):
        pair = _PAIR.match(line, place)
        if pair is None or pair[1] in facts:
            return None
        facts[pair[1]] = json.loads(pair[3]) if pair[3] else None if pair[2] == "-" else pair[2]
        place = pair.end()
    event = facts.pop("event") if next(iter(facts), "") == "event" else None
    return None if event is None else LogLine(event, {key: value for key, value in facts.items() if value is not None})


def phase_after(line: LogLine, before: str) -> str:
    """Return where a run stands after a line of its server app, which stood in another phase before it.

    Examples
    --------
    >>> phase_after(LogLine("received", {"message": "train"}), "teachers answer")
    'distillation'
    """
    message = line.text("message")
    if line.event in (OPENED, STARTED):
        return "preparation"
    if line.event == RECEIVED and message == "train":
        return "distillation"
    return PHASES.get(message, printable(message)[:LONGEST_PHASE]) if line.event in (SENT, RECEIVED) else before


class SealedLog:
    """Tells a server app's own lines from all others of a stream: its seal is in the first line that opens a log."""

    def __init__(self) -> None:
        self._seal = ""

    def read(self, line: str) -> LogLine | None:
        """Read the stream's next line, or return None where it is not the server app's."""
        read = read_line(line)
        if read is not None and read.event == OPENED:
            self._seal = self._seal or read.text("seal")
        return read if read is not None and self._seal and read.text("seal") == self._seal else None


def sealed_lines(lines: Iterable[str]) -> Iterator[LogLine]:
    """Read a server app's own lines from the stream of a run."""
    log = SealedLog()
    return (read for line in lines if (read := log.read(line)) is not None)


def new_seal() -> str:
    """Draw 128 bits that nobody can guess."""
    return secrets.token_urlsafe(16)


def log_event(event: str, level: int = logging.INFO, **facts: object) -> None:
    """Log one event with its facts.

    Parameters
    ----------
    event
        What happened: `sent`, `received`, `started`.
    level
        Of the record.
    **facts
        Nothing private; None where a fact is not known.
    """
    logger.log(level, _Event({"event": event, **{key.replace("_", "-"): value for key, value in facts.items()}}))


class LineFormatter(logging.Formatter):
    """Writes every record of knot_fed as one line: an event with its facts, anything else as a note.

    Parameters
    ----------
    seal
        Ends each line; empty: none.
    """

    def __init__(self, seal: str = "") -> None:
        super().__init__()
        self._seal = {"seal": seal} if seal else {}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; an exception's text, which may be private, stays out of it."""
        said = record.msg.facts if isinstance(record.msg, _Event) else {"event": NOTE, "text": record.getMessage()}
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return write_line({"event": said["event"], "time": moment, **said, **self._seal})


def log_to(file: Path | None = None, *, seal: str = "") -> None:
    """Send knot_fed's own log to standard output, and to a file beside it; a file of before is closed.

    Parameters
    ----------
    file
        Where the same lines go, without a seal, since nobody else writes to it.
    seal
        Ends each line on standard output; empty: none.
    """
    for handler in logger.handlers:
        handler.close()
    handlers: dict[logging.Handler, str] = {logging.StreamHandler(sys.stdout): seal}
    handlers |= {_FileHandler(file, encoding="utf-8"): ""} if file else {}
    for handler, its_seal in handlers.items():
        handler.setFormatter(LineFormatter(its_seal))
    logger.handlers = list(handlers)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def printable(text: str) -> str:
    r"""Drop what a terminal would act on.

    Examples
    --------
    >>> printable("\x1b[31mred\n")
    '[31mred'
    """
    return "".join(letter for letter in text if letter.isprintable())


class _FileHandler(logging.FileHandler):
    """A full disk stops no run for a line of its log; what the run itself has to write tells of it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        del record


def _pairs(facts: Mapping[str, object]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in facts.items())


def _value(value: object) -> str:
    text = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
    known = value is None or text != "-"
    return text if known and _BARE.fullmatch(text) else json.dumps(text)
