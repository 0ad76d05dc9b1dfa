"""Follows a run by its log stream and by the status that Flower reports."""

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
"""Ray's prefix of each line of a virtual client."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the log stream of a run showed.

    Parameters
    ----------
    number
        Flower's number of the run; "0" if it never started.
    table
        The result in the server app's sealed lines; None if there was none.
    failure
        The failure in the server app's sealed lines; empty if there was none.
    tail
        The last twenty lines from any source.
    phase
        The last phase in the server app's sealed lines; empty if it had not started.
    error
        The first error of the last traceback from any source; empty if there was none.
    """

    number: str
    table: dict[str, Any] | None
    failure: str
    tail: list[str]
    phase: str = ""
    error: str = ""


def watch(lines: Iterable[str], *, echo: Callable[[str], None], verbose: bool = False) -> Watched:
    """Follow the output of `flwr run --stream` to its end.

    Parameters
    ----------
    lines
        Lines of Flower, of the server app, and of anything else in its process.
    echo
        Called with the text of each note, or with every line if `verbose`.
    verbose
        Whether to echo every line.
    """
    number, table, failure, phase, log, errors = "0", None, "", "", SealedLog(), Tracebacks()
    tail = deque[str](maxlen=20)
    for line in map(str.rstrip, lines):
        # Flower prints the number before the first line of the run; a later match is not Flower's.
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
    """Finds the first error of the last chain of tracebacks in a log; Python prints causes first."""

    def __init__(self) -> None:
        self.last = ""
        self._inside = self._chained = False

    def read(self, line: str) -> None:
        """Process the next line."""
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
    """Return the text of a note; empty for any other line."""
    return printable(MARKER + read.text("text")) if read is not None and read.event == NOTE else ""


def _line_of_worker(line: str) -> LogLine | None:
    """Parse a virtual client's line, for display only."""
    plain = COLOURS.sub("", line)
    prefix = WORKER.match(plain)
    return read_line(plain[prefix.end() :]) if prefix else None


def _plain(line: str) -> str:
    return printable(COLOURS.sub("", line))


def check_completed(listed: str, watched: Watched) -> None:
    """Raise unless the run completed.

    Parameters
    ----------
    listed
        Output of `flwr list --format json` for the run.
    watched
        What the log stream showed.

    Raises
    ------
    FederationError
        If the run did not start, is still running, or failed.
    """
    status = _status(listed)
    if not status:
        if watched.number != "0":
            raise FederationError(
                f"the SuperLink disappeared during run {watched.number}"
                f" ({watched.phase or 'before its server app had started'}); restart the SuperLink, then the run"
            )
        said = " ".join(BOX_DRAWING.sub(" ", " ".join(map(_plain, watched.tail))).split())
        raise FederationError(f"the run never started ({said or 'Flower said nothing'}); use --verbose")
    if not status.startswith("finished"):
        raise FederationError(f"the run continues ({status}), but its log was interrupted; see knot-fed status")
    if status != "finished:completed":
        raise FederationError(printable(watched.failure) or unexplained(status, watched.phase, watched.error))


def unexplained(status: str, phase: str, error: str = "") -> str:
    """Describe the end of a run whose server app logged none.

    Parameters
    ----------
    status
        Flower's status of the run.
    phase
        The last phase that the server app logged; empty if it had not started.
    error
        The error in the log, if any.

    Examples
    --------
    >>> unexplained("finished:stopped", "distillation")
    'the run was stopped from outside during distillation, by flwr stop or through the SuperLink; submit it again'
    """
    where = f"during {phase}" if phase else "before its server app had started"
    if status == "finished:stopped":
        return f"the run was stopped from outside {where}, by flwr stop or through the SuperLink; submit it again"
    kind = error.rstrip(".") or "no error was logged, so it was killed, perhaps for memory, or lost its SuperLink"
    return f"the process of the run's server app ended {where} ({kind}); --verbose shows the whole log"


def _status(listed: str) -> str:
    """Return Flower's status of a run; empty if there is none."""
    try:
        return printable(str(json.loads(listed)["runs"][0]["status"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
