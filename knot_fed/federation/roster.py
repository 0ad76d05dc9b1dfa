"""The clients of one run: found, greeted, counted up and down, and asked for the student's metrics."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Message, Metadata, RecordDict
from flwr.serverapp import Grid

from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.distillation import DistillationResult
from knot_fed.errors import FederationError, WireError
from knot_fed.evaluation import EvaluationDetails
from knot_fed.federation import wire
from knot_fed.federation.crossings import log_crossing
from knot_fed.federation.nodes import content_of, matched, shake_hands, wait_for_nodes
from knot_fed.run_log import log_event
from knot_fed.types import Metrics

logger = logging.getLogger("knot_fed")


@dataclass(slots=True)
class ClientRecord:
    """What the run tells about one client: its answers' state and its traffic."""

    name: str
    node_id: int
    examples: int = 0
    status: str = "joined"
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    asked_at: float = 0.0
    holds_transfer_set: bool = False

    def to_mapping(self) -> dict[str, str | int | float]:
        """Return the record as `summary.json` holds it; node numbers are drawn anew each run and stay out."""
        return {key: getattr(self, key) for key in ("name", "examples", "status", "bytes_up", "bytes_down", "seconds")}


@dataclass(slots=True)
class Outcome:
    """What the strategy has computed so far; complete at any time, so that a failed run loses nothing."""

    clients: dict[str, ClientRecord] = field(default_factory=dict)
    before: dict[str, Metrics] = field(default_factory=dict)
    after: dict[str, Metrics] = field(default_factory=dict)
    details: dict[str, EvaluationDetails] = field(default_factory=dict)
    distillations: list[DistillationResult] = field(default_factory=list)


class Roster:
    """Who takes part in a run; its outcome holds a record of each client, and `round` is the one under way.

    Parameters
    ----------
    config
        The run's configuration.
    rounds
        How many there will be.
    """

    def __init__(self, config: RunConfig, *, rounds: int) -> None:
        self.config = config
        self.rounds = rounds
        self.outcome = Outcome()
        self._asked: list[Metadata] = []
        self.round = 0

    def open(self, grid: Grid, transfer: TransferSet) -> None:
        """Wait for the clients and compare protocol, labels and transfer set with each.

        Raises
        ------
        FederationError
            If too few nodes are there in time, or fewer than `min-teachers` pass.
        """
        log_event("started", name=self.config.name, rounds=self.rounds, timeout=self.config.timeout)
        labels = wire.canonical_labels(self.config.label_space())
        ours = wire.Handshake(wire.PROTOCOL, labels, transfer.fingerprint)
        node_ids = wait_for_nodes(grid, self.config)
        accepted, refused = shake_hands(grid, node_ids, ours, timeout=self.config.timeout)
        for name, (node_id, handshake) in sorted(accepted.items()):
            record = ClientRecord(name, node_id, holds_transfer_set=bool(handshake.fingerprint))
            self.outcome.clients[name] = record
        for label, reason in sorted(refused.items()):
            logger.warning("handshake: %s %s", label, reason)
            self.outcome.clients[label] = ClientRecord(label, 0, status=f"refused: {reason}")
        self.require(len(accepted), refused, "passed the handshake")

    def joined(self) -> list[ClientRecord]:
        """Return the clients that passed the handshake, by name."""
        return [record for _, record in sorted(self.outcome.clients.items()) if record.node_id]

    def message(self, content: RecordDict, record: ClientRecord, kind: str) -> Message:
        """Address a message to a client, count its bytes, and log it."""
        record.bytes_down += wire.count_bytes(content)
        message = Message(content, dst_node_id=record.node_id, message_type=kind)
        self._asked.append(message.metadata)
        record.asked_at = time.monotonic()
        log_crossing("sent", message, node=record.name, round_number=self.round)
        return message

    def log_reply(self, reply: Message, record: ClientRecord, *, outcome: str) -> None:
        """Log what came back and what was made of it."""
        seconds = time.monotonic() - record.asked_at
        log_crossing("received", reply, node=record.name, round_number=self.round, seconds=seconds, outcome=outcome)

    def by_client(self, replies: Iterable[Message]) -> list[tuple[ClientRecord, Message]]:
        """Match replies with what was asked since the last call, count their bytes, and sort them by client's name."""
        answers = matched(self._asked, replies)
        self._asked.clear()
        pairs = [(record, answers[record.node_id]) for record in self.joined() if record.node_id in answers]
        for record, reply in pairs:
            record.bytes_up += wire.count_bytes(reply.content) if reply.has_content() else 0
        return pairs

    def require(self, count: int, refused: dict[str, str], what: str) -> None:
        """Refuse to go on with fewer than `min-teachers` clients.

        Raises
        ------
        FederationError
            With the reason of each client that is out.
        """
        if count < self.config.min_teachers:
            listed = "; ".join(f"{name}: {reason}" for name, reason in sorted(refused.items())) or "no client answered"
            raise FederationError(
                f"{count} client(s) {what}, min-teachers is {self.config.min_teachers} ({listed});"
                " mend these clients or lower min-teachers"
            )

    def ask_metrics(self, spec: str, student: ArrayRecord) -> list[Message]:
        """Ask every client to judge the student, given by its specification (JSON) and its arrays."""
        return [self.message(wire.pack_student(spec, student), record, "evaluate") for record in self.joined()]

    def read_metrics(self, replies: Iterable[Message], domains: dict[str, Metrics]) -> None:
        """Enter the metrics under the clients' names; a client that gave none is logged and left out."""
        for record, reply in self.by_client(replies):
            try:
                domains[record.name] = wire.unpack_metrics(content_of(reply), labels=self.config.label_space())
                self.log_reply(reply, record, outcome="ok")
            except WireError as error:
                self.log_reply(reply, record, outcome=f"rejected: {error}")
                logger.warning("%s: evaluation %s", record.name, error)
