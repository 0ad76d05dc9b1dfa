"""The clients of one run: found, greeted, their traffic counted, and asked for the student's metrics."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flwr.app import ArrayRecord, Message, Metadata, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import FederationError, WireError
from knot_fed.federation.server.nodes import content_of, matched, shake_hands, wait_for_nodes
from knot_fed.federation.wire import envelope, exchange, student_wire
from knot_fed.federation.wire.message_log import log_message
from knot_fed.geometry import evaluation_labels, local_labels
from knot_fed.runs.log import log_event
from knot_fed.runs.method import answered_in_words
from knot_fed.training.distillation import DistillationResult
from knot_fed.training.evaluation import EvaluationDetails
from knot_fed.types import Metrics

MOST_TOLD = 5
"""Clients whose reasons are listed when a run fails."""
ENDED = (ErrorCode.UNKNOWN, ErrorCode.CLIENT_APP_CRASHED)

_Answer = TypeVar("_Answer")

logger = logging.getLogger("knot_fed")


@dataclass(slots=True)
class ClientRecord:
    """A client's status and traffic, the rounds that it answered, and the last round in which it was asked."""

    name: str
    node_id: int
    examples: int = 0
    status: str = "joined"
    rounds: int = 0
    asked_in: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    rows_asked: int = 0
    rows_sent: int = 0
    seconds: float = 0.0
    asked_at: float = 0.0
    holds_transfer_set: bool = False
    claim: exchange.Claim | None = None
    unmeasured: str = ""

    def to_mapping(self) -> dict[str, str | int | float]:
        """Return the record for `summary.json`, without the node number, which changes with each run."""
        told = ("name", "examples", "status", "rounds", "bytes_up", "bytes_down", "rows_asked", "rows_sent", "seconds")
        return {key: getattr(self, key) for key in (*told, "unmeasured")}

    def enter(self, claim: exchange.Claim, *, seconds: float, asked: int, sent: int) -> None:
        """Record a valid answer; `asked` and `sent` are numbers of soft labels."""
        self.status, self.claim, self.holds_transfer_set = "ok", claim, True
        self.rounds += 1
        self.rows_asked += asked
        self.rows_sent += sent
        self.seconds += seconds


@dataclass(slots=True)
class Outcome:
    """What the run has computed so far; complete at any time, so that a failed run loses nothing."""

    clients: dict[str, ClientRecord] = field(default_factory=dict)
    before: dict[str, Metrics] = field(default_factory=dict)
    after: dict[str, Metrics] = field(default_factory=dict)
    details: dict[str, EvaluationDetails] = field(default_factory=dict)
    intervals: dict[str, Any] = field(default_factory=dict)
    distillations: list[DistillationResult] = field(default_factory=list)
    personal: dict[str, dict[str, Metrics]] = field(default_factory=dict)  # `before` and `after` by client name
    without_personal: dict[str, str] = field(default_factory=dict)  # reasons by client name

    @property
    def answered(self) -> int:
        """The number of clients that gave a valid answer in any round."""
        return sum(record.rounds > 0 for record in self.clients.values())


class Roster:
    """The clients of a run of `rounds` rounds: `outcome` holds a record of each, and `round` is the current round.

    `answered_in_round` is the number of its valid answers.
    """

    def __init__(self, config: RunConfig, *, rounds: int) -> None:
        self.config = config
        self.rounds = rounds
        self.outcome = Outcome()
        self.round = 0
        self.answered_in_round = 0
        self._asked: list[Metadata] = []
        self._traffic: dict[str, tuple[int, int]] = {}
        self._online: set[int] = set()
        self._met: set[int] = set()
        self._counted: tuple[RecordDict, int] = RecordDict(), 0

    def open(self, grid: Grid, transfer: TransferSet) -> None:
        """Wait for the clients, and compare protocol, labels and transfer set with each; refuse too few of them."""
        log_event("started", name=self.config.name, rounds=self.rounds, timeout=self.config.timeout)
        deadline, refused = time.monotonic() + self.config.timeout, dict[str, str]()
        while True:
            wait_for_nodes(grid, self.config)
            refused |= self.welcome(grid, transfer)
            enough, all_met = len(self.joined()) >= self.config.min_teachers, self._online <= self._met
            if enough or all_met or time.monotonic() > deadline:
                break
        self.require(len(self.joined()), refused, "passed the handshake")

    def welcome(self, grid: Grid, transfer: TransferSet) -> dict[str, str]:
        """Shake hands with new nodes, and mark absent clients; return the refusals by client name or `node <number>`.

        A restarted node takes its client's place again, unless the node that holds it still answers.
        """
        self.look(grid)
        for record in self.joined():
            if record.node_id not in self._online:
                record.status = "away: not connected when it was asked"
        newcomers = sorted(self._online - self._met)
        if not newcomers:
            return {}
        accepted, refused = self._greet(grid, newcomers, transfer)
        places = {name: self.outcome.clients[name].node_id for name in accepted if name in self.outcome.clients}
        held = self._greet(grid, sorted(set(places.values()) & self._online), transfer)[0] if places else {}
        for name, (node_id, handshake) in sorted(accepted.items()):
            if name in held:
                refused[f"node {node_id}"] = f"calls itself {name}, as another node does; give each node its own name"
            else:
                known = self.outcome.clients.get(name)
                if known is None:
                    self.outcome.clients.pop(f"node {node_id}", None)
                else:
                    logger.info("%s is back", name)
                record = self.outcome.clients[name] = known or ClientRecord(name, node_id)
                record.node_id, record.status = node_id, "joined"
                record.holds_transfer_set = bool(handshake.fingerprint)
        for label, reason in sorted(refused.items()):
            logger.warning("handshake: %s %s", label, reason)
            self.outcome.clients[label] = ClientRecord(label, 0, status=f"refused: {reason}")
        return refused

    def look(self, grid: Grid) -> None:
        """Note which nodes are connected."""
        self._online = set(grid.get_node_ids())

    def _greet(
        self, grid: Grid, node_ids: list[int], transfer: TransferSet
    ) -> tuple[dict[str, tuple[int, exchange.Handshake]], dict[str, str]]:
        labels = exchange.canonical_labels(self.config.label_space())
        ours = exchange.Handshake(envelope.PROTOCOL, labels, transfer.fingerprint)
        accepted, refused, silent = shake_hands(grid, node_ids, ours, timeout=self.config.timeout)
        self._met |= set(node_ids) - silent
        return accepted, refused

    def joined(self) -> list[ClientRecord]:
        """Return the clients that passed the handshake, by name."""
        return [record for _, record in sorted(self.outcome.clients.items()) if record.node_id]

    def count_traffic(self) -> None:
        """Start to count a round's traffic."""
        self._traffic = {name: (record.bytes_up, record.bytes_down) for name, record in self.outcome.clients.items()}

    def traffic_of_round(self, record: ClientRecord) -> tuple[int, int]:
        """Return the bytes up and down of a client since `count_traffic`."""
        up, down = self._traffic.get(record.name, (0, 0))
        return record.bytes_up - up, record.bytes_down - down

    def present(self) -> list[ClientRecord]:
        """Return the clients that passed the handshake and were connected at the last look, by name."""
        return [record for record in self.joined() if record.node_id in self._online]

    def message(self, content: RecordDict, record: ClientRecord, kind: str) -> Message:
        """Address a message to a client, count its bytes, and log it; messages may share their content."""
        if content is not self._counted[0]:
            self._counted = content, envelope.count_bytes(content)
        size = self._counted[1]
        record.bytes_down += size
        message = Message(content, dst_node_id=record.node_id, message_type=kind)
        self._asked.append(message.metadata)
        record.asked_at = time.monotonic()
        log_message("sent", message, node=record.name, round_number=self.round, size=size)
        return message

    def log_reply(self, reply: Message, record: ClientRecord, *, outcome: str) -> None:
        """Log a reply and its outcome."""
        seconds = time.monotonic() - record.asked_at
        log_message("received", reply, node=record.name, round_number=self.round, seconds=seconds, outcome=outcome)

    def by_client(self, replies: Iterable[Message]) -> list[tuple[ClientRecord, Message]]:
        """Match replies with the messages sent since the last call, count their bytes, and sort them by client name."""
        answers = matched(self._asked, replies)
        self._asked.clear()
        pairs = [(record, answers[record.node_id]) for record in self.joined() if record.node_id in answers]
        for record, reply in pairs:
            record.bytes_up += envelope.count_bytes(reply.content) if reply.has_content() else 0
        return pairs

    def read(
        self, replies: Iterable[Message], unpack: Callable[[ClientRecord, Message], _Answer], *, status: str = "ok"
    ) -> dict[str, _Answer]:
        """Read valid answers by client name; an invalid one leaves its reason in the client's record."""
        answers: dict[str, _Answer] = {}
        for record, reply in self.by_client(replies):
            try:
                answers[record.name] = unpack(record, reply)
            except WireError as error:
                record.status = f"rejected: {error}"
                logger.warning("round %d: %s: %s", self.round, record.name, error)
            else:
                record.status = status
            self.log_reply(reply, record, outcome="ok" if record.name in answers else record.status)
        return answers

    def ask_again(
        self, grid: Grid, messages: Sequence[Message], replies: Iterable[Message], *, timeout: float
    ) -> list[Message]:
        """Ask clients whose process ended once more, one at a time, and return all replies.

        While another process is busy, a simulation would give the requests to the killed one again.
        """
        given, deadline = list(replies), time.monotonic() + timeout
        ended = {reply.metadata.src_node_id for reply in given if not reply.has_content() and reply.error.code in ENDED}
        records = {record.node_id: record for record in self.joined() if record.node_id in ended}
        for asked in messages:
            record = records.get(asked.metadata.dst_node_id)
            if record is not None:
                logger.warning("%s: its process ended before it answered; asking once more", record.name)
                message = self.message(asked.content, record, asked.metadata.message_type)
                given += grid.send_and_receive([message], timeout=max(0.0, deadline - time.monotonic()))
        return given

    def require(self, count: int, refused: dict[str, str], what: str) -> None:
        """Raise FederationError, with the first reasons, if `count` is less than `min-teachers`."""
        if count < self.config.min_teachers:
            listed = [f"{name}: {reason}" for name, reason in sorted(refused.items())[:MOST_TOLD]]
            listed += [f"and {len(refused) - MOST_TOLD} more"] * (len(refused) > MOST_TOLD)
            raise FederationError(
                f"{count} client(s) {what}, min-teachers is {self.config.min_teachers}"
                f" ({'; '.join(listed) or 'no client answered'}); fix these clients or lower min-teachers"
            )

    def close_round(self, answered: Collection[str], *, how: str = "") -> None:
        """Require enough valid answers, by client name, in the current round, and log how many there are."""
        clients = self.outcome.clients
        rejected = {name: record.status for name, record in clients.items() if name not in answered}
        self.require(len(answered), rejected, f"answered round {self.round}")
        self.answered_in_round = len(answered)
        asked = sum(record.asked_in == self.round for record in clients.values())
        others = f", {asked} were asked" if asked < len(clients) else ""
        logger.info("round %d: %s%s%s", self.round, answered_in_words(len(answered), len(clients)), others, how)

    def ask_metrics(self, spec: str, student: ArrayRecord, *, temperature: float) -> list[Message]:
        """Ask every client to evaluate the student, given its specification (JSON), arrays and temperature.

        All messages share one content, so that a thousand hold the student once.
        """
        sent = None if local_labels(self.config) is not None else evaluation_labels(self.config)
        content = student_wire.pack_student(spec, student, temperature=temperature, geometry=sent)
        return [self.message(content, record, "evaluate") for record in self.present()]

    def read_metrics(self, replies: Iterable[Message], domains: dict[str, Metrics]) -> None:
        """Replace the clients' metrics by these; a missing answer is logged, and its reason entered in the record."""
        for record in self.joined():
            domains.pop(record.name, None)  # of an earlier student
            if record.name in self.outcome.before:
                record.unmeasured = ""
        for record, reply in self.by_client(replies):
            try:
                domains[record.name] = student_wire.unpack_metrics(
                    content_of(reply), labels=evaluation_labels(self.config)
                )
                self.log_reply(reply, record, outcome="ok")
            except WireError as error:
                self.log_reply(reply, record, outcome=f"rejected: {error}")
                logger.warning("%s: evaluation: %s", record.name, error)
                record.unmeasured = str(error)
        present = self.present()
        for record in self.joined():
            if record.name not in domains:
                reason = "gave no metrics in time" if record in present else "was not connected when it was asked"
                record.unmeasured = record.unmeasured or reason
