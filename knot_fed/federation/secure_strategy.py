"""KnotStrategy over a secure sum: the server learns the pooled soft labels, and no single teacher's."""

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from jaxtyping import UInt
from typing_extensions import override

from knot_fed.aggregation import single_weights, weight_bound
from knot_fed.config import RunConfig
from knot_fed.federation.secure_round import SecureRound
from knot_fed.federation.strategy import KnotStrategy, logger
from knot_fed.privacy.secure_sum import Quantisation, add_masks, dequantise, quantise


class SecureSumStrategy(KnotStrategy):
    """Federated distillation to pooled soft labels that are summed under masks (Bonawitz et al. 2017)."""

    _secure_round: SecureRound

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._secure_round = SecureRound(self.roster, grid, server_round)
        self._secure_round.open(self._sampled(server_round))
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
        logger.info(
            "round %d: a secure sum of %d of %d teachers", server_round, len(secure.answers), len(secure.clients)
        )
        teachers = {name: {"reused": a.reused, "seconds": a.seconds} for name, a in sorted(secure.answers.items())}
        for record in secure.clients:
            record.seconds += teachers[record.name]["seconds"] if record.name in teachers else 0.0
        return self._distil(server_round, pooled[None], np.ones((1, len(pooled))), teachers), None

    def _public_values(self, rows: range, quantisation: Quantisation) -> UInt[np.ndarray, "texts columns"]:
        """Weigh the pretrained student as the clients weigh theirs; it is public and added in clear."""
        teacher = self.public_teacher
        if teacher is None:
            raise ValueError("there is no public teacher")
        soft_labels = teacher.soft_labels[rows.start : rows.stop]
        weights = single_weights(
            self.config.weights.scheme, examples=teacher.examples, scores=teacher.confidence[rows.start : rows.stop],
            soft_labels=soft_labels, power=self.config.weights.power,
        )  # fmt: skip
        return quantise(soft_labels, weights, quantisation)


def strategy_of(config: RunConfig) -> type[KnotStrategy]:
    """Return the strategy that the configuration asks for."""
    return SecureSumStrategy if config.privacy.secure_sum else KnotStrategy


def privacy_facts(config: RunConfig) -> dict[str, str | int | bool]:
    """Return what `summary.json` says of privacy."""
    if not config.privacy.secure_sum:
        return {"mechanism": "none", "guarantee": "no guarantee: soft labels leave each client without noise"}
    return {
        "mechanism": "secure sum",
        "guarantee": (
            "single soft labels were not seen: the server learnt their weighted sum; no differential privacy, and no"
            " protection from a server that deviates from the protocol"
        ),
        "single_soft_labels_seen": False,
        "threshold": config.privacy.threshold or "more than two thirds of the clients",
        "sum_bits": config.privacy.sum_bits,
    }
