"""Collecting a round's answers by a secure sum: the server learns the pooled soft labels, and no single teacher's."""

from collections.abc import Iterable

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from jaxtyping import UInt

from knot_fed.aggregation import consensus_of_pooled, single_weights, weight_bound
from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.secure import sum_wire
from knot_fed.federation.secure.round import SecureRound
from knot_fed.federation.server.checkpoint import Received
from knot_fed.federation.server.collecting import AnswerCollector, Collector, sample_clients, train_request
from knot_fed.federation.server.roster import Roster
from knot_fed.federation.wire import envelope
from knot_fed.privacy.secure_sum import Quantisation, add_masks, dequantise, quantise
from knot_fed.types import TeacherAnswer


class SecureSumCollector:
    """Collects the sum of the clients' weighted soft labels under masks (Bonawitz et al. 2017).

    Parameters
    ----------
    config, transfer, public_teacher
        As in `AnswerCollector`.
    """

    _sum: SecureRound

    def __init__(self, config: RunConfig, transfer: TransferSet, public_teacher: TeacherAnswer | None) -> None:
        self.config = config
        self.transfer = transfer
        self.public_teacher = public_teacher

    def requests(self, roster: Roster, server_round: int, grid: Grid) -> list[Message]:
        """Agree on keys, have shares sealed, and ask those that are left for masked rows."""
        roster.welcome(grid, self.transfer)
        roster.round = server_round
        self._sum = SecureRound(roster, grid, server_round)
        sampled = sample_clients(self.config, roster, server_round)
        for record in sampled:
            record.asked_in = server_round
        self._sum.open(sampled)
        return self._sum.ask_masked(lambda record: train_request(self.config, self.transfer, record, server_round))

    def ask(self, roster: Roster, server_round: int, grid: Grid) -> list[Message]:
        """Ask once: who has masked its rows masks them for no second sum, and who is away is left out of this one."""
        messages = self.requests(roster, server_round, grid)
        return list(grid.send_and_receive(messages, timeout=self.config.timeout))

    def collect(self, roster: Roster, server_round: int, replies: Iterable[Message]) -> Received:
        """Take the masks off the sum, and divide it by the sum of the weights.

        Raises
        ------
        FederationError
            If too few clients are left to unmask the sum.
        """
        rows = self.transfer.slice(server_round, self.config.rounds)
        bound = weight_bound(self.config.weights.scheme, power=self.config.weights.power)
        quantisation = Quantisation(self.config.privacy.sum_bits, bound, parties=len(self._sum.clients) + 1)
        columns = len(self.config.label_space()) + 1
        total = self._sum.close(replies, texts=len(rows), columns=columns, quantisation=quantisation)
        if self.public_teacher is not None:
            public = self._public_values(self.public_teacher.select(rows), quantisation)
            total = add_masks(total, plus=[public], minus=[])
        weighted, _ = dequantise(total, quantisation)
        pooled = weighted / weighted.sum(axis=1, keepdims=True)
        answers = self._sum.answers
        roster.log_round(len(answers), how=", in a secure sum")
        for record in self._sum.clients:
            if record.name in answers:
                record.enter(answers[record.name].claim, seconds=answers[record.name].seconds)
        teachers = {name: {"reused": a.reused, "seconds": a.seconds} for name, a in sorted(answers.items())}
        return Received(teachers, consensus_of_pooled(pooled))

    def _public_values(self, answer: TeacherAnswer, quantisation: Quantisation) -> UInt[np.ndarray, "texts columns"]:
        """Weigh the pretrained student as the clients weigh theirs; it is public and added in clear."""
        weights = single_weights(self.config.weights.scheme, answer, power=self.config.weights.power)
        return quantise(answer.soft_labels, weights, quantisation)


def make_collector(config: RunConfig, transfer: TransferSet, public_teacher: TeacherAnswer | None) -> Collector:
    """Return the collector that the configuration asks for."""
    kind = SecureSumCollector if config.privacy.secure_sum else AnswerCollector
    return kind(config, transfer, public_teacher)


def reply_bounds(config: RunConfig, *, texts: int) -> envelope.ReplyBounds:
    """Bound the replies to the requests of that collector."""
    bounds = sum_wire.sum_reply_bounds if config.privacy.secure_sum else envelope.ReplyBounds.of_soft_labels
    return bounds(texts, len(config.label_space()))
