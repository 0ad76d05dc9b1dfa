"""Watching a run from outside: what its stream shows, and how Flower says that it ended."""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from knot_fed.errors import FederationError
from knot_fed.runs.log import FAILED, MARKER, NOTE, RESULT, LogLine, SealedLog, phase_after, printable, read_line

STARTED = re.compile(r"started run (\d+)")
BOX_DRAWING = re.compile(r"[╭╮╰╯│─]+")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
CHAINED = "The above exception was the direct cause"
LONGEST_ERROR = 200
WORKER = re.compile(r"\(\w+ pid=\d+(?:, ip=[0-9a-f.:]+)?\) ")
"""What Ray puts before each line of a virtual client."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of one run: its number ("0": it never started), its own records of its end, and the last lines.

    Parameters
    ----------
    number
        Flower's number of the run.
    table
        The result that the server app recorded under its seal; None: none was seen.
    failure
        The failure that it recorded; empty: none was seen.
    tail
        The last twenty lines, whoever wrote them.
    phase
        Where its records ended; empty: the server app had not started.
    error
        The first error of the last traceback, whoever wrote it; empty: there was none.
    """

    number: str
    table: dict[str, Any] | None
    failure: str
    tail: list[str]
    phase: str = ""
    error: str = ""


def watch(lines: Iterable[str], *, echo: Callable[[str], None], verbose: bool = False) -> Watched:
    """Follow what `flwr run --stream` prints until it ends.

    Parameters
    ----------
    lines
        Flower's own lines, the server app's, and whatever else its process writes.
    echo
        Called with each note, made readable, or with every line.
    verbose
        Which of the two.
    """
    number, table, failure, phase, log, errors = "0", None, "", "", SealedLog(), Tracebacks()
    tail = deque[str](maxlen=20)
    for line in map(str.rstrip, lines):
        # Flower tells the number before it shows the first line of the run; what looks like one later is not its own.
        started = STARTED.search(line) if number == "0" else None
        number = started[1] if started else number
        read = log.read(line)
        errors.read(line)
        phase = phase_after(read, phase) if read is not None else phase
        if read is not None and read.event == RESULT:
            table = read.table()
            continue
        if read is not None and read.event == FAILED:
            failure = read.text("text")
        tail.append(line)
        shown = _plain(line) if verbose else _note(read or _line_of_worker(line))
        if shown:
            echo(shown)
    return Watched(number, table, failure, list(tail), phase, errors.last)


class Tracebacks:
    """Finds the error that came first in the last chain of tracebacks of a log: Python prints causes first."""

    def __init__(self) -> None:
        self.last = ""
        self._inside = self._chained = False

    def read(self, line: str) -> None:
        """Read the log's next line."""
        plain = COLOURS.sub("", line)
        if CHAINED in plain or plain.startswith("During handling of"):
            self._chained = True
        elif "Traceback (most recent call last)" in plain:
            self._inside = True
        elif self._inside and plain and not plain.startswith(" "):
            self._inside = False
            self.last = self.last if self._chained else printable(plain)[:LONGEST_ERROR]
            self._chained = False


def _note(read: LogLine | None) -> str:
    """Return a note as people read it; empty for any other line."""
    return printable(MARKER + read.text("text")) if read is not None and read.event == NOTE else ""


def _line_of_worker(line: str) -> LogLine | None:
    """Read a virtual client's line, which only ever is shown."""
    plain = COLOURS.sub("", line)
    prefix = WORKER.match(plain)
    return read_line(plain[prefix.end() :]) if prefix else None


def _plain(line: str) -> str:
    return printable(COLOURS.sub("", line))


def check_completed(listed: str, watched: Watched) -> None:
    """Refuse any end but a completed run.

    Parameters
    ----------
    listed
        What `flwr list --format json` says of the run.
    watched
        What was seen of it.

    Raises
    ------
    FederationError
        If the run did not start, goes on unseen, or failed; in one sentence.
    """
    status = _status(listed)
    if not status:
        if watched.number != "0":
            raise FederationError(
                f"the SuperLink went away while run {watched.number} was under way"
                f" ({watched.phase or 'before its server app had started'}); start again what ran it, then the run"
            )
        said = " ".join(BOX_DRAWING.sub(" ", " ".join(map(_plain, watched.tail))).split())
        raise FederationError(f"the run never started ({said or 'Flower said nothing'}); use --verbose")
    if not status.startswith("finished"):
        raise FederationError(f"the run continues ({status}) but its log broke off; look with knot-fed status")
    if status != "finished:completed":
        raise FederationError(printable(watched.failure) or unexplained(status, watched.phase, watched.error))


def unexplained(status: str, phase: str, error: str = "") -> str:
    """Tell of a run that ended without a word of its server app: the phase, the party and the kind of error.

    Parameters
    ----------
    status
        As Flower lists it.
    phase
        Where the server app's records ended; empty: it had not started.
    error
        What the log shows of an error, if it does.

    Examples
    --------
    >>> unexplained("finished:stopped", "distillation")
    'the run was stopped from outside during distillation, by flwr stop or through the SuperLink; submit it again'
    """
    where = f"during {phase}" if phase else "before its server app had started"
    if status == "finished:stopped":
        return f"the run was stopped from outside {where}, by flwr stop or through the SuperLink; submit it again"
    kind = error.rstrip(".") or "no error was logged, so that it was killed, perhaps for memory, or lost its SuperLink"
    return f"the process of the run's server app ended {where} ({kind}); --verbose shows the whole log"


def _status(listed: str) -> str:
    """Return what Flower says of a run; empty where it says nothing."""
    try:
        return printable(str(json.loads(listed)["runs"][0]["status"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
