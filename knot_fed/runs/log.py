r"""The format of knot_fed's log lines: one function writes them, one strict parser reads them.

    knot_fed: event=note time=2026-01-01T00:00:00Z text="round 1: 4 of 4 clients answered"

A line is the marker and `key=value` pairs, `event` first, each key once. A value is bare printable ASCII, or a JSON
string in ASCII; `-` stands for unknown. So a text from a peer can end neither its value nor its line.

Others may write to the stream of a server app. There its lines end with a seal of 128 random bits, which the app draws
and writes into its first line, `event=opened`, before it contacts any client.
"""

import io
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

MARKER = "knot_fed: "
"""Starts each line of knot_fed in a stream shared with Flower."""
LOG_FILE = "run.log"
"""Name of the log file in the run folder."""
NOTE, OPENED, RESULT, FAILED = "note", "opened", "result", "failed"
STARTED, SENT, RECEIVED = "started", "sent", "received"
LONGEST_PHASE = 40
PHASES = {"query": "handshake", "train": "teachers answer", "evaluate": "evaluation"}
"""Phase of a run by the type of the message under way."""
_BARE = re.compile(r"[!#-<>-~]+")
_PAIR = re.compile(
    r'([a-z][a-z0-9-]*)=(?:([!#-<>-~]+)|("(?:[ !#-\[\]-~]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"))(?: (?=.)|\Z)'
)
_COUNT = re.compile(r"[0-9]{1,20}")
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")

logger = logging.getLogger("knot_fed")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A parsed line: the event and its known facts by key."""

    event: str
    facts: dict[str, str]

    def text(self, key: str) -> str:
        """Return a value, or an empty string if unknown."""
        return self.facts.get(key, "")

    def count(self, key: str) -> int:
        """Return a value as a non-negative integer, or 0 if it is not one."""
        return int(self.text(key)) if _COUNT.fullmatch(self.text(key)) else 0

    def number(self, key: str) -> float:
        """Return a value as a non-negative decimal number, or 0 if it is not one."""
        return float(self.text(key)) if _NUMBER.fullmatch(self.text(key)) else 0.0

    def table(self) -> dict[str, Any] | None:
        """Return the table of a `result` line, or None if there is none."""
        try:
            read = json.loads(self.text("table"))
        except (ValueError, RecursionError):
            return None
        return read if isinstance(read, dict) else None


@dataclass(frozen=True, slots=True)
class _Event:
    """An event in place of a log record's message."""

    facts: dict[str, object]

    def __str__(self) -> str:
        return _pairs(self.facts)


def write_line(facts: Mapping[str, object]) -> str:
    """Format facts as one line; the only place where text enters a line.

    Parameters
    ----------
    facts
        By key, `event` first; None for unknown.
    """
    return MARKER + _pairs(facts)


def read_line(line: str) -> LogLine | None:
    r"""Parse a line written by `write_line`; return None for any other line.

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
    """Return the phase of a run after a line of its server app.

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
    """Picks a server app's own lines from a stream; the first `opened` line holds its seal."""

    def __init__(self) -> None:
        self._seal = ""

    def read(self, line: str) -> LogLine | None:
        """Parse the next line of the stream, or return None if it is not the server app's."""
        read = read_line(line)
        if read is not None and read.event == OPENED:
            self._seal = self._seal or read.text("seal")
        return read if read is not None and self._seal and read.text("seal") == self._seal else None


def sealed_lines(lines: Iterable[str]) -> Iterator[LogLine]:
    """Parse the server app's own lines in the stream of a run."""
    log = SealedLog()
    return (read for line in lines if (read := log.read(line)) is not None)


def new_seal() -> str:
    """Draw 128 unpredictable bits."""
    return secrets.token_urlsafe(16)


def log_event(event: str, level: int = logging.INFO, **facts: object) -> None:
    """Log an event such as `sent` with its facts: nothing private, None for unknown."""
    logger.log(level, _Event({"event": event, **{key.replace("_", "-"): value for key, value in facts.items()}}))


class LineFormatter(logging.Formatter):
    """Formats each record as one line, ending with the seal if there is one; a plain message becomes a note."""

    def __init__(self, seal: str = "") -> None:
        super().__init__()
        self._seal = {"seal": seal} if seal else {}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without the text of an exception, which may be private."""
        said = record.msg.facts if isinstance(record.msg, _Event) else {"event": NOTE, "text": record.getMessage()}
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return write_line({"event": said["event"], "time": moment, **said, **self._seal})


def log_to(file: Path | None = None, *, seal: str = "") -> None:
    """Send knot_fed's log to standard output and to a file; an earlier file is closed.

    Parameters
    ----------
    file
        Gets the same lines without a seal, since nobody else writes to it.
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
    r"""Remove control characters.

    Examples
    --------
    >>> printable("\x1b[31mred\n")
    '[31mred'
    """
    return "".join(letter for letter in text if letter.isprintable())


@contextmanager
def notes_to(echo: Callable[[str], None]) -> Iterator[None]:
    """Pass each note that a run in this process logs to `echo`, instead of all lines to standard output."""
    flower = logging.getLogger("flwr")
    level = flower.level
    flower.setLevel(logging.WARNING)
    try:
        with redirect_stdout(_Notes(echo, sys.stdout)):
            yield
    finally:
        flower.setLevel(level)


class _Notes(io.TextIOBase):
    def __init__(self, echo: Callable[[str], None], shown: io.TextIOBase | TextIO) -> None:
        self._echo, self._shown = echo, shown

    def write(self, text: str) -> int:
        for read in map(read_line, text.splitlines()):
            if read is not None and read.event == NOTE:
                with redirect_stdout(self._shown):
                    self._echo(printable(MARKER + read.text("text")))
        return len(text)


class _FileHandler(logging.FileHandler):
    """Ignores write errors: a full disk must not stop a run for a log line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        del record


def _pairs(facts: Mapping[str, object]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in facts.items())


def _value(value: object) -> str:
    text = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
    known = value is None or text != "-"
    return text if known and _BARE.fullmatch(text) else json.dumps(text)
