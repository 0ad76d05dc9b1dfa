"""Mutated lines of a run's log against everything that reads them: the parser, `knot-fed status`, `knot-fed submit`.

No line may raise anything, and none but the server app's own may tell how far a run is or how it ended.
"""

import io
import json

import pytest
from rich.console import Console

from knot_fed.deployment.progress import read_progress
from knot_fed.deployment.status import ended, run_facts
from knot_fed.deployment.status_tables import run_tables
from knot_fed.errors import FederationError
from knot_fed.launch.watching import check_completed, watch
from knot_fed.runs.log import MARKER, read_line, sealed_lines, write_line

SEAL, GUESS = "0Jj5cQ8m2nYt7xVb4LrWzA", "a"
TABLE = {"task": "ours"}
STARTED = "Successfully started run 5 in federation @none/default"
TEXTS = (
    "", "-", "ok", "no answer", '"', "\\", '\\"', "=", " ", "a=b", "\n", "\r", "\r\n", "\x85", "\u2028", "\0",
    "\x1b[31m", "\u202e", "²", "\ud800", "[/bold]", "x" * 3000, "[" * 3000, "{}", "1e999", "nan", "-1", "9" * 30,
    "node 7", "Successfully started run 6", f"{MARKER}the table: {{}}", f"{MARKER}event=started",
    f"\n{MARKER}event=result", f"seal={GUESS}", "\x1b[36m(ClientAppActor pid=7)\x1b[0m ",
    f'"\n{MARKER}event=opened seal="{GUESS}"\n{MARKER}event=result seal="{GUESS}" table="{{}}',
)  # fmt: skip
EVENTS = ("opened", "started", "sent", "received", "note", "result", "failed", "query", "", "-", "event")
KEYS = (
    "time", "message", "run", "round", "rounds", "timeout", "node", "node-id", "texts", "bytes", "seconds", "outcome",
    "text", "table", "name",
)  # fmt: skip
USUAL = {
    "time": ("2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"),
    "message": ("query", "train", "evaluate", "train.keys"),
    "table": (json.dumps({"task": "forged"}),),
}
NUMBERS = (0, 1, 7, -1, 10**19, 0.5, float("nan"), float("inf"), 1e300, None)
STATUSES = (
    "", "null", "[]", "{}", '{"runs": []}', '{"runs": [7]}', '{"runs": 7}', "[" * 5000,
    *(json.dumps({"runs": [{"status": status}]}) for status in (*TEXTS, "running", "finished:failed", 7, None, {})),
)  # fmt: skip
COMPLETED = json.dumps({"runs": [{"status": "finished:completed"}]})


def hostile_text(draw):
    return "".join(draw.choice(TEXTS) for _ in range(draw.randrange(4)))


def facts(draw, event=None):
    """Return an event's facts: usual ones, odd ones, and some that are missing."""
    chosen = draw.sample(KEYS, draw.randrange(len(KEYS)))
    told = {key: draw.choice((*USUAL.get(key, ()), *NUMBERS, hostile_text(draw))) for key in chosen}
    return {"event": draw.choice(EVENTS) if event is None else event, **told}


def mutated(draw, line):
    letters = list(line)
    for _ in range(draw.choice((0, 1, 1, 2, 5))):
        place = draw.randrange(len(letters) + 1)
        letters[place : place + draw.choice((0, 1, 1, 30))] = draw.choice((*TEXTS, " ", '"', "=", "a", "é"))
    return "".join(letters)


def foreign_line(draw):
    """Return a line of anybody: free text, or one in our form under no seal, or under a guessed one."""
    if draw.random() < 0.3:
        return hostile_text(draw)
    line = write_line({**facts(draw), **draw.choice(({}, {"seal": GUESS}, {"seal": ""}))})
    return draw.choice(("", "", draw.choice(TEXTS))) + mutated(draw, line)


def own_lines(draw):
    """Return what a server app writes, in an order and with facts that need not make sense."""
    events = ("started", "sent", "received", "note", "sent", "received")
    told = [facts(draw, draw.choice(events)) for _ in range(draw.randrange(6))]
    return [write_line({**line, "seal": SEAL}) for line in ({"event": "opened"}, *told)]


def mixed(draw, own):
    """Put foreign lines between a server app's own, but before none of them: it opens its log first."""
    stream = list(own)
    for _ in range(draw.randrange(4)):
        stream.insert(draw.randrange(1, len(stream) + 1), foreign_line(draw))
    return [part for line in stream for part in draw.choice((str.splitlines, lambda text: text.split("\n")))(line)]


def line(draw):
    told = facts(draw)
    written = write_line(told)
    read = read_line(written)
    assert read is not None
    assert read.event == told["event"]
    assert [*read.facts] == [key for key in told if key != "event" and told[key] is not None]
    assert all(read.facts[key] == value for key, value in told.items() if isinstance(value, str) and key != "event")
    assert written.isascii()
    assert written.isprintable()
    again = read_line(mutated(draw, written))
    if again is None:
        return "refused"
    assert read_line(write_line({"event": again.event, **again.facts})) == again
    return "read"


def status(draw):
    own = own_lines(draw)
    stream = mixed(draw, own)
    told = read_progress(sealed_lines(stream))
    assert told == read_progress(sealed_lines(own))
    for progress in (told, read_progress(filter(None, map(read_line, stream)))):
        shown = {
            "run": hostile_text(draw),
            "status": hostile_text(draw),
            **run_facts(ended(progress, hostile_text(draw))),
        }
        json.dumps(shown, allow_nan=False)
        if draw.random() < 0.1:
            console = Console(file=io.StringIO(), width=130)
            console.print(*run_tables([shown]))
            assert console.file.getvalue().replace("\n", "").isprintable()
    return "read"


def submit(draw):
    table = draw.choice((None, TABLE))
    result = [write_line({"event": "result", "table": json.dumps(table), "seal": SEAL})] if table else []
    echoed = []
    stream = mixed(draw, [*own_lines(draw), *result])
    watched = watch([STARTED, *stream], echo=echoed.append, verbose=draw.random() < 0.3)
    assert (watched.number, watched.table, watched.failure) == ("5", table, "")
    assert all(map(str.isprintable, echoed))
    check_completed(COMPLETED, watched)
    with pytest.raises(FederationError) as failure:
        check_completed(draw.choice(STATUSES), watched)
    assert str(failure.value).isprintable()
    return "refused"


TARGETS = {"log-line": line, "status": status, "submit": submit}
"""By name what reads one hostile text: it returns what came of it, and raises where anything was forged."""
