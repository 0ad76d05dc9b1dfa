"""KnotStrategy over a secure sum: the server learns the pooled soft labels, and no single teacher's."""

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from jaxtyping import UInt
from typing_extensions import override

from knot_fed.aggregation import single_weights, weight_bound
from knot_fed.config import RunConfig
from knot_fed.errors import RunFolderError
from knot_fed.federation.secure import sum_wire
from knot_fed.federation.secure.round import SecureRound
from knot_fed.federation.server.checkpoint import Checkpoint, Received
from knot_fed.federation.server.strategy import KnotStrategy
from knot_fed.federation.wire import envelope
from knot_fed.models import trained_state
from knot_fed.privacy.secure_sum import Quantisation, add_masks, dequantise, quantise
from knot_fed.training.fitting import FitState


class SecureSumStrategy(KnotStrategy):
    """Federated distillation to pooled soft labels that are summed under masks (Bonawitz et al. 2017)."""

    _secure_round: SecureRound

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.roster.welcome(grid, self.transfer)
        self.roster.round = server_round
        self._secure_round = SecureRound(self.roster, grid, server_round)
        sampled = self._sampled(server_round)
        self._asked = {record.name for record in sampled}
        self._secure_round.open(sampled)
        return self._secure_round.ask_masked(lambda record: self._request(server_round, record))

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        secure = self._secure_round
        rows = self.transfer.slice(server_round, self.config.rounds)
        bound = weight_bound(self.config.weights.scheme, power=self.config.weights.power)
        quantisation = Quantisation(self.config.privacy.sum_bits, bound, parties=len(secure.clients) + 1)
        total = secure.close(replies, texts=len(rows), columns=len(self.labels) + 1, quantisation=quantisation)
        if self.public_teacher is not None:
            total = add_masks(total, plus=[self._public_values(rows, quantisation)], minus=[])
        weighted, _ = dequantise(total, quantisation)
        pooled = weighted / weighted.sum(axis=1, keepdims=True)
        self.folder.save_pooled(server_round, pooled)
        self.roster.log_round(len(secure.answers), asked=len(self._asked), how=", in a secure sum")
        teachers = {name: {"reused": a.reused, "seconds": a.seconds} for name, a in sorted(secure.answers.items())}
        for record in secure.clients:
            if record.name in secure.answers:
                answer = secure.answers[record.name]
                record.seconds, record.holds_transfer_set = record.seconds + answer.seconds, True
                record.claim = answer.claim
                record.rounds += 1
        self._distil_pooled(server_round, Received(teachers, pooled=pooled))
        return envelope.pack_arrays(trained_state(self.student)), None

    @override
    def _ask(self, server_round: int, grid: Grid) -> list[Message]:
        """Ask once: who has masked its rows masks them for no second sum, and who is away is left out of this one."""
        self._answered = set()
        messages = self.configure_train(server_round, ArrayRecord(), ConfigRecord(), grid)
        return list(grid.send_and_receive(messages, timeout=self.config.timeout))

    @override
    def _learn_on(self, resumed: Checkpoint) -> None:
        self._distil_pooled(resumed.round, resumed.received, start=resumed.fit)

    def _distil_pooled(self, server_round: int, received: Received, *, start: FitState | None = None) -> None:
        pooled = received.pooled
        if pooled is None:
            raise RunFolderError("the checkpoint holds no pooled soft labels, so it is not of a secure sum; run anew")
        self._distil(server_round, pooled[None], np.ones((1, len(pooled))), received, start=start)

    def _public_values(self, rows: range, quantisation: Quantisation) -> UInt[np.ndarray, "texts columns"]:
        """Weigh the pretrained student as the clients weigh theirs; it is public and added in clear."""
        teacher = self.public_teacher
        if teacher is None:
            raise ValueError("there is no public teacher")
        soft_labels = teacher.soft_labels[rows.start : rows.stop]
        weights = single_weights(
            self.config.weights.scheme, examples=teacher.examples, scores=teacher.scores[rows.start : rows.stop],
            soft_labels=soft_labels, power=self.config.weights.power,
        )  # fmt: skip
        return quantise(soft_labels, weights, quantisation)


def strategy_of(config: RunConfig) -> type[KnotStrategy]:
    """Return the strategy that the configuration asks for."""
    return SecureSumStrategy if config.privacy.secure_sum else KnotStrategy


def reply_bounds(config: RunConfig, *, texts: int) -> envelope.ReplyBounds:
    """Bound the replies to the requests of that strategy."""
    bounds = sum_wire.reply_bounds if config.privacy.secure_sum else envelope.ReplyBounds.of_soft_labels
    return bounds(texts, len(config.label_space()))
