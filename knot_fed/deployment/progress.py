"""The progress of a run, read from the lines of its log."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from knot_fed.runs.log import FAILED, PHASES, RECEIVED, RESULT, SENT, STARTED, LogLine, phase_after


@dataclass(slots=True)
class NodeTraffic:
    """Bytes sent by (`up`) and to (`down`) one client so far, and its last message."""

    node_id: str
    bytes_up: int = 0
    bytes_down: int = 0
    last: str = ""
    outcome: str = ""


@dataclass(slots=True)
class Progress:
    """The progress of a run, with the traffic by client name.

    `phase` is `preparation`, `handshake`, `evaluation`, `teachers answer`, `distillation`, `finished` or `failed`.
    `round` is 0 before the first, `rounds` is 0 while unknown. `seconds_left` is estimated from the completed rounds,
    None before the first. The phase times out at `phase_ends`, which is empty if no client is waited for.
    """

    phase: str = "preparation"
    round: int = 0
    rounds: int = 0
    nodes: dict[str, NodeTraffic] = field(default_factory=dict)
    seconds_left: float | None = None
    phase_ends: str = ""
    failure: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """Return the fields as plain containers."""
        return asdict(self)


def read_progress(lines: Iterable[LogLine]) -> Progress:
    """Follow the server app's lines of one run; missing or invalid facts are ignored."""
    progress, open_requests = Progress(), 0
    timeout, first, last, asked = 0.0, 0.0, 0.0, 0.0
    for line in lines:
        progress.phase = phase_after(line, progress.phase)
        if line.event == STARTED:
            progress.failure, open_requests = "", 0
            progress.rounds, timeout = line.count("rounds"), line.number("timeout")
        elif line.event == RESULT:
            progress.phase, progress.seconds_left = "finished", 0.0
        elif line.event == FAILED:
            progress.phase, progress.failure = "failed", line.text("text") or "no reason given"
        if line.event not in (SENT, RECEIVED):
            continue
        message, last = line.text("message"), _seconds(line.text("time")) or last
        _count(progress, line)
        progress.round = max(progress.round, line.count("round"))
        if line.event == SENT:
            open_requests, asked = open_requests + 1, last
            first = first or (last if message == "train" else 0.0)
        else:
            open_requests -= 1
        done = progress.round if message == "evaluate" else progress.round - 1
        if done > 0 and first:
            progress.seconds_left = (last - first) / done * max(progress.rounds - done, 0)
    waits = open_requests > 0 and progress.phase in PHASES.values()
    progress.phase_ends = _clock(asked + timeout) if waits else ""
    return progress


def _count(progress: Progress, line: LogLine) -> None:
    """Add a message to its client's traffic, under the client's name once the log reports it."""
    node_id, reported = line.text("node-id"), line.text("node")
    name = next((name for name, known in reversed(progress.nodes.items()) if known.node_id == node_id), reported)
    if name != reported and name.startswith("node "):
        progress.nodes[reported] = progress.nodes.pop(name)
        name = reported
    traffic = progress.nodes.setdefault(name, NodeTraffic(node_id))
    traffic.last = line.text("time")
    if line.event == SENT:
        traffic.bytes_down += line.count("bytes")
    else:
        traffic.bytes_up += line.count("bytes")
        traffic.outcome = line.text("outcome")


def _seconds(text: str) -> float:
    """Return a time in seconds since 1970, or 0 if it cannot be parsed."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _clock(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return ""
