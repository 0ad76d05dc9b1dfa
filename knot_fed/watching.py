"""Watching a run from outside: what its stream shows, and how Flower says that it ended."""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from knot_fed.errors import FederationError
from knot_fed.run_log import FAILED, MARKER, NOTE, RESULT, LogLine, SealedLog, printable, read_line

STARTED = re.compile(r"started run (\d+)")
BOX_DRAWING = re.compile(r"[╭╮╰╯│─]+")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
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
    """

    number: str
    table: dict[str, Any] | None
    failure: str
    tail: list[str]


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
    number, table, failure, log = "0", None, "", SealedLog()
    tail = deque[str](maxlen=20)
    for line in map(str.rstrip, lines):
        # Flower tells the number before it shows the first line of the run; what looks like one later is not its own.
        started = STARTED.search(line) if number == "0" else None
        number = started[1] if started else number
        read = log.read(line)
        if read is not None and read.event == RESULT:
            table = read.table()
            continue
        if read is not None and read.event == FAILED:
            failure = read.text("text")
        tail.append(line)
        shown = _plain(line) if verbose else _note(read or _line_of_worker(line))
        if shown:
            echo(shown)
    return Watched(number, table, failure, list(tail))


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
                f"the SuperLink went away while run {watched.number} was under way; look with knot-fed status"
            )
        said = " ".join(BOX_DRAWING.sub(" ", " ".join(map(_plain, watched.tail))).split())
        raise FederationError(f"the run never started ({said or 'Flower said nothing'}); use --verbose")
    if not status.startswith("finished"):
        raise FederationError(f"the run goes on ({status}) but its log broke off; look with knot-fed status")
    if status != "finished:completed":
        raise FederationError(printable(watched.failure) or f"the run ended as {status}; use --verbose to see why")


def _status(listed: str) -> str:
    """Return what Flower says of a run; empty where it says nothing."""
    try:
        return printable(str(json.loads(listed)["runs"][0]["status"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
