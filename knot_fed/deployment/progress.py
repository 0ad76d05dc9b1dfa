"""How far a run is, read from the lines of its log."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from knot_fed.run_log import FAILURE, read_event, read_table_line

PHASES = {"query": "handshake", "train": "teachers answer", "evaluate": "evaluation"}


@dataclass(slots=True)
class NodeTraffic:
    """What went to and came from one client so far."""

    node_id: str
    bytes_up: int = 0
    bytes_down: int = 0
    last: str = ""
    outcome: str = ""


@dataclass(slots=True)
class Progress:
    """Where a run stands.

    Parameters
    ----------
    phase
        `preparation`, `handshake`, `evaluation`, `teachers answer`, `distillation`, `finished` or `failed`.
    round, rounds
        The round under way, 0 before the first; how many there are, 0 while that is not known.
    nodes
        Traffic by the client's name.
    seconds_left
        Estimate from the rounds done; None before the first is.
    phase_ends
        When the phase under way ends at the latest, by the run's `timeout`; empty where it waits for nobody.
    failure
        Why it failed, if it did.
    """

    phase: str = "preparation"
    round: int = 0
    rounds: int = 0
    nodes: dict[str, NodeTraffic] = field(default_factory=dict)
    seconds_left: float | None = None
    phase_ends: str = ""
    failure: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """Return the progress as `--json` prints it."""
        return asdict(self)


def read_progress(lines: Iterable[str]) -> Progress:
    """Follow the server's lines of one run; lines of anybody else are passed over."""
    progress, open_requests = Progress(), 0
    timeout, first, last, asked = 0.0, 0.0, 0.0, 0.0
    for line in lines:
        if read_table_line(line) is not None:
            progress.phase, progress.seconds_left = "finished", 0.0
        elif FAILURE in line:
            progress.phase, progress.failure = "failed", line.partition(FAILURE)[2].strip()
        event = read_event(line)
        if event is None:
            continue
        if event["event"] == "started":
            progress.rounds, timeout = _number(event["rounds"]), float(event["timeout"])
            continue
        last = _seconds(event["time"])
        _count(progress, event)
        progress.round = max(progress.round, _number(event["round"]))
        progress.phase = PHASES.get(event["message"], event["message"])
        if event["event"] == "sent":
            open_requests, asked = open_requests + 1, last
            first = first or (last if event["message"] == "train" else 0.0)
        else:
            open_requests -= 1
            if event["message"] == "train":
                progress.phase = "distillation"
        done = progress.round if event["message"] == "evaluate" else progress.round - 1
        if done > 0 and first:
            progress.seconds_left = (last - first) / done * max(progress.rounds - done, 0)
    waits = open_requests > 0 and progress.phase in PHASES.values()
    progress.phase_ends = datetime.fromtimestamp(asked + timeout, UTC).strftime("%H:%M:%SZ") if waits else ""
    return progress


def _count(progress: Progress, event: dict[str, str]) -> None:
    known = {traffic.node_id: name for name, traffic in progress.nodes.items()}
    name = known.get(event["node-id"], event["node"])
    if name != event["node"] and name.startswith("node "):
        progress.nodes[event["node"]] = progress.nodes.pop(name)
        name = event["node"]
    traffic = progress.nodes.setdefault(name, NodeTraffic(event["node-id"]))
    traffic.last = event["time"]
    if event["event"] == "sent":
        traffic.bytes_down += _number(event["bytes"])
    else:
        traffic.bytes_up += _number(event["bytes"])
        traffic.outcome = event["outcome"]


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _seconds(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
