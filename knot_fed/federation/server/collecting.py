"""How a round's answers reach the server: which clients are asked, how often, and what they replied."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from functools import partial
from typing import ClassVar

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from typing_extensions import override

from knot_fed.aggregation import find_consensus
from knot_fed.config import RunConfig
from knot_fed.config.choices import reports_scores
from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.server.checkpoint import Received
from knot_fed.federation.server.nodes import content_of
from knot_fed.federation.server.roster import ClientRecord, Roster
from knot_fed.federation.wire import exchange
from knot_fed.federation.wire.answer_arrays import HeldRows
from knot_fed.federation.wire.envelope import pack_arrays
from knot_fed.models import TextClassifier, trained_state
from knot_fed.types import TeacherAnswer

ATTEMPTS = 3
POLL_SECONDS = 1.0

logger = logging.getLogger("knot_fed")


class Collector(ABC):
    """Collects the answers of a round.

    `public_teacher` holds the pretrained student's answers on the transfer set, which count as those of one more
    teacher.
    """

    reaches_clients: ClassVar[bool] = True
    """Whether the clients are there, so that a consensus can be sent back to them."""

    def __init__(self, config: RunConfig, transfer: TransferSet, public_teacher: TeacherAnswer | None) -> None:
        self.config = config
        self.transfer = transfer
        self.public_teacher = public_teacher
        self.student: exchange.SentStudent | None = None

    def send_down(self, student: TextClassifier) -> None:
        """Send this student with the next requests."""
        self.student = exchange.SentStudent(student.spec.to_json(), pack_arrays(trained_state(student)))

    @abstractmethod
    def requests(self, roster: Roster, server_round: int, grid: Grid, answered: Collection[int] = ()) -> list[Message]:
        """Return the messages that ask the sampled clients, except nodes that have answered."""

    @abstractmethod
    def ask(self, roster: Roster, server_round: int, grid: Grid) -> list[Message]:
        """Send them, repeatedly where that helps, and return all replies."""

    @abstractmethod
    def collect(self, roster: Roster, server_round: int, replies: Iterable[Message]) -> Received:
        """Read the valid replies, and form the consensus; raises FederationError if there are too few."""

    def sample(self, roster: Roster, server_round: int) -> list[ClientRecord]:
        """Draw `fraction` of the clients that are present, at least `min-teachers`."""
        present = roster.present()
        count = max(self.config.min_teachers, int(np.ceil(self.config.fraction * len(present))))
        generator = np.random.default_rng([self.config.seed, server_round])
        return [present[row] for row in sorted(generator.permutation(len(present))[:count])]

    def request(self, record: ClientRecord, server_round: int, *, held: str = "") -> exchange.TrainRequest:
        """Ask a client for its slice of the transfer set, with the texts if it does not hold them.

        `held` is the digest of its last answer, if only changes to it are asked for.
        """
        rows = self.transfer.slice(server_round, self.config.slices)
        record.status, record.asked_in = "no answer", server_round
        texts = None if record.holds_transfer_set else self.transfer
        fingerprint, student = self.transfer.fingerprint, self.student
        return exchange.TrainRequest(server_round, fingerprint, rows.start, rows.stop, texts, student, held)


class AnswerCollector(Collector):
    """Collects each client's soft labels; parameters as in `Collector`.

    Under `resend-above`, it holds each client's last answer until the last round. A resumed run starts with none.
    """

    def __init__(self, config: RunConfig, transfer: TransferSet, public_teacher: TeacherAnswer | None) -> None:
        super().__init__(config, transfer, public_teacher)
        self._held: dict[str, HeldRows] = {}

    @override
    def requests(self, roster: Roster, server_round: int, grid: Grid, answered: Collection[int] = ()) -> list[Message]:
        roster.welcome(grid, self.transfer)
        roster.round = server_round
        contents, messages = dict[tuple[bool, str], RecordDict](), list[Message]()  # equal requests share one content
        for record in self.sample(roster, server_round):
            if record.node_id not in answered:
                held = self._held[record.name].digest if record.name in self._held else ""
                request, key = self.request(record, server_round, held=held), (record.holds_transfer_set, held)
                if key not in contents:
                    contents[key] = exchange.pack_train_request(request)
                messages.append(roster.message(contents[key], record, "train"))
        return messages

    @override
    def ask(self, roster: Roster, server_round: int, grid: Grid) -> list[Message]:
        deadline, replies, answered = time.monotonic() + self.config.timeout, list[Message](), set[int]()
        for _ in range(ATTEMPTS):
            messages = self.requests(roster, server_round, grid, answered)
            given = grid.send_and_receive(messages, timeout=max(0.0, deadline - time.monotonic()))
            replies += roster.ask_again(grid, messages, given, timeout=max(0.0, deadline - time.monotonic()))
            answered = {reply.metadata.src_node_id for reply in replies if reply.has_content()}
            if len(answered) >= self.config.min_teachers or not _await_return(grid, answered, deadline):
                break
            logger.info("round %d: %d answer(s) are too few, asking the rest again", server_round, len(answered))
        return replies

    @override
    def collect(self, roster: Roster, server_round: int, replies: Iterable[Message]) -> Received:
        rows, config = self.transfer.slice(server_round, self.config.slices), self.config
        valid = dict(sorted(roster.read(replies, partial(self._read, server_round, rows)).items()))
        for name, read in valid.items():
            record = roster.outcome.clients[name]
            record.examples = read.answer.examples
            record.enter(read.claim, seconds=read.seconds, asked=len(rows), sent=read.rows_sent)
            if config.sends_changes and server_round < config.rounds:
                self._held[name] = HeldRows.of(read.arrays, fingerprint=self.transfer.fingerprint, rows=rows)
        roster.close_round(valid)
        answers = [read.answer for read in valid.values()]
        if self.public_teacher is not None:
            answers.append(self.public_teacher.select(rows))
        teachers = {
            name: {"reused": read.reused, "seconds": read.seconds, "rows_sent": read.rows_sent}
            for name, read in valid.items()
        }
        consensus = find_consensus(answers, config.weights, config.distill)
        return Received(teachers, consensus, {name: read.answer for name, read in valid.items()})

    def _read(self, server_round: int, rows: range, record: ClientRecord, reply: Message) -> exchange.TrainReply:
        """Read a client's answer, whole or as changes to the one held."""
        config, held = self.config, self._held.get(record.name)
        return exchange.unpack_soft_labels(
            content_of(reply), round_number=server_round, examples=len(rows), labels=config.label_space(),
            privacy=config.privacy, scored=reports_scores(config.weights.scheme),
            held=held.arrays if held is not None else None,
        )  # fmt: skip


def _await_return(grid: Grid, answered: Collection[int], deadline: float) -> bool:
    while time.monotonic() + POLL_SECONDS < deadline:
        time.sleep(POLL_SECONDS)
        if set(grid.get_node_ids()) - set(answered):
            return True
    return False
