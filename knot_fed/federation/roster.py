"""The clients of one run: found, greeted, counted up and down, and asked for the student's metrics."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.distillation import DistillationResult
from knot_fed.errors import FederationError, WireError
from knot_fed.evaluation import EvaluationDetails
from knot_fed.federation import wire
from knot_fed.federation.nodes import shake_hands, wait_for_nodes
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
    holds_transfer_set: bool = False
    claim: wire.Claim | None = None

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
    """Who takes part in a run; its outcome holds a record of each client.

    Parameters
    ----------
    config
        The run's configuration.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.outcome = Outcome()

    def open(self, grid: Grid, transfer: TransferSet) -> None:
        """Wait for the clients and compare protocol, labels and transfer set with each.

        Raises
        ------
        FederationError
            If too few nodes are there in time, or fewer than `min-teachers` pass.
        """
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
        """Address a message to a client and count its bytes."""
        record.bytes_down += wire.count_bytes(content)
        return Message(content, dst_node_id=record.node_id, message_type=kind)

    def by_client(self, replies: Iterable[Message]) -> list[tuple[ClientRecord, Message]]:
        """Count the bytes of replies, and put them in the order of the clients' names."""
        records = {record.node_id: record for record in self.joined()}
        pairs = [(records[r.metadata.src_node_id], r) for r in replies if r.metadata.src_node_id in records]
        for record, reply in pairs:
            record.bytes_up += wire.count_bytes(reply.content) if reply.has_content() else 0
        return sorted(pairs, key=lambda pair: pair[0].name)

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

    def ask_metrics(self, spec: str, student: ArrayRecord) -> Iterable[Message]:
        """Ask every client to judge the student, given by its specification (JSON) and its arrays."""
        for record in self.joined():
            yield self.message(wire.pack_student(spec, student), record, "evaluate")

    def read_metrics(self, replies: Iterable[Message], domains: dict[str, Metrics]) -> None:
        """Enter the metrics under the clients' names; a client that gave none is logged and left out."""
        for record, reply in self.by_client(replies):
            try:
                domains[record.name] = wire.unpack_metrics(content_of(reply))
            except WireError as error:
                logger.warning("%s: evaluation %s", record.name, error)


def content_of(reply: Message) -> RecordDict:
    """Return a reply's records.

    Raises
    ------
    WireError
        If the client failed or refused.
    """
    if not reply.has_content():
        raise WireError(f"failed with error {reply.error.code}; see the client's log")
    reason = wire.refusal_of(reply.content)
    if reason is not None:
        raise WireError(reason)
    return reply.content
