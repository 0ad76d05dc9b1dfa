"""How a round's answers come to the server: who is sampled, how often they are asked, and what their replies say."""

import logging
import time
from collections.abc import Collection, Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from knot_fed.aggregation import find_consensus, find_scheme
from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import WireError
from knot_fed.federation.server.checkpoint import Received
from knot_fed.federation.server.nodes import content_of
from knot_fed.federation.server.roster import ClientRecord, Roster
from knot_fed.federation.wire import exchange
from knot_fed.types import TeacherAnswer

ATTEMPTS = 3
POLL_SECONDS = 1.0

logger = logging.getLogger("knot_fed")


@runtime_checkable
class Collector(Protocol):
    """What a strategy collects a round's answers by."""

    def requests(self, roster: Roster, server_round: int, grid: Grid) -> list[Message]:
        """Return the messages that ask for a round's answers."""

    def ask(self, roster: Roster, server_round: int, grid: Grid) -> list[Message]:
        """Send them, again where that helps, and return all replies."""

    def collect(self, roster: Roster, server_round: int, replies: Iterable[Message]) -> Received:
        """Read the replies, refuse those that break a rule, and form the consensus."""


class AnswerCollector:
    """Collects each client's own soft labels.

    Parameters
    ----------
    config
        The run's configuration.
    transfer
        The shared unlabelled texts.
    public_teacher
        The pretrained student's answers on them, which count as one more teacher's; None: it was not pretrained.

    Raises
    ------
    ConfigError
        If a user's own scheme cannot be imported.
    """

    def __init__(self, config: RunConfig, transfer: TransferSet, public_teacher: TeacherAnswer | None) -> None:
        find_scheme(config.weights.scheme)
        self.config = config
        self.transfer = transfer
        self.public_teacher = public_teacher

    def requests(
        self, roster: Roster, server_round: int, grid: Grid, *, answered: Collection[int] = ()
    ) -> list[Message]:
        """Ask the clients that were sampled, but those nodes that have answered."""
        roster.welcome(grid, self.transfer)
        roster.round = server_round
        return [
            roster.message(exchange.pack_train_request(train_request(self.config, self.transfer, record, server_round)),
                           record, "train")
            for record in sample_clients(self.config, roster, server_round)
            if record.node_id not in answered
        ]  # fmt: skip

    def ask(self, roster: Roster, server_round: int, grid: Grid) -> list[Message]:
        """Ask for a round's answers; where too few came, wait for the clients that are away, and ask them again."""
        deadline, replies, answered = time.monotonic() + self.config.timeout, list[Message](), set[int]()
        for _ in range(ATTEMPTS):
            messages = self.requests(roster, server_round, grid, answered=answered)
            given = grid.send_and_receive(messages, timeout=max(0.0, deadline - time.monotonic()))
            replies += roster.ask_again(grid, messages, given, timeout=max(0.0, deadline - time.monotonic()))
            answered = {reply.metadata.src_node_id for reply in replies if reply.has_content()}
            if len(answered) >= self.config.min_teachers or not _await_return(grid, answered, deadline):
                break
            logger.info("round %d: %d answer(s) are too few, asking the rest again", server_round, len(answered))
        return replies

    def collect(self, roster: Roster, server_round: int, replies: Iterable[Message]) -> Received:
        """Read the answers and form the consensus.

        Raises
        ------
        FederationError
            If fewer than `min-teachers` are valid.
        """
        valid = self._valid(roster, server_round, replies)
        rejected = {name: r.status for name, r in roster.outcome.clients.items() if name not in valid}
        roster.require(len(valid), rejected, f"answered round {server_round}")
        roster.log_round(len(valid))
        answers = [valid[name].answer for name in sorted(valid)]
        if self.public_teacher is not None:
            answers.append(self.public_teacher.select(self.transfer.slice(server_round, self.config.rounds)))
        teachers = {name: {"reused": reply.reused, "seconds": reply.seconds} for name, reply in sorted(valid.items())}
        return Received(teachers, find_consensus(answers, self.config.weights, self.config.distill))

    def _valid(self, roster: Roster, server_round: int, replies: Iterable[Message]) -> dict[str, exchange.TrainReply]:
        size = len(self.transfer.slice(server_round, self.config.rounds))
        valid: dict[str, exchange.TrainReply] = {}
        for record, reply in roster.by_client(replies):
            try:
                read = exchange.unpack_soft_labels(
                    content_of(reply), round_number=server_round, examples=size, labels=self.config.label_space(),
                    privacy=self.config.privacy,
                )  # fmt: skip
            except WireError as error:
                record.status = f"rejected: {error}"
                logger.warning("round %d: %s: %s", server_round, record.name, error)
            else:
                record.examples = read.answer.examples
                record.enter(read.claim, seconds=read.seconds)
                valid[record.name] = read
            roster.log_reply(reply, record, outcome=record.status)
        return valid


def sample_clients(config: RunConfig, roster: Roster, server_round: int) -> list[ClientRecord]:
    """Draw the clients of a round from those that are present: `fraction` of them, at least `min-teachers`."""
    present = roster.present()
    count = max(config.min_teachers, int(np.ceil(config.fraction * len(present))))
    generator = np.random.default_rng([config.seed, server_round])
    return [present[row] for row in sorted(generator.permutation(len(present))[:count])]


def train_request(
    config: RunConfig, transfer: TransferSet, record: ClientRecord, server_round: int
) -> exchange.TrainRequest:
    """Ask a client for its slice of the transfer set, with the texts where it does not hold them."""
    rows = transfer.slice(server_round, config.rounds)
    record.status, record.asked_in = "no answer", server_round
    texts = None if record.holds_transfer_set else transfer
    return exchange.TrainRequest(server_round, transfer.fingerprint, rows.start, rows.stop, texts)


def _await_return(grid: Grid, answered: Collection[int], deadline: float) -> bool:
    while time.monotonic() + POLL_SECONDS < deadline:
        time.sleep(POLL_SECONDS)
        if set(grid.get_node_ids()) - set(answered):
            return True
    return False
