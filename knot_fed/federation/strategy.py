"""KnotStrategy: which clients are asked, what they are asked, and what is done with their answers."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from jaxtyping import Float
from typing_extensions import override

from knot_fed.aggregation import agreement_weights, client_weights, find_scheme, pool_soft_labels
from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.distillation import DistillationResult, PublicCrossEntropy, distil_student
from knot_fed.errors import FederationError, WireError
from knot_fed.federation import wire
from knot_fed.federation.nodes import shake_hands, wait_for_nodes
from knot_fed.losses import make_loss
from knot_fed.models import TextClassifier, trained_state
from knot_fed.reporting import RunFolder
from knot_fed.types import LabelledTexts, Metrics, SoftLabels

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

    def to_mapping(self) -> dict[str, str | int | float]:
        """Return the record as `summary.json` holds it; node numbers are drawn anew each run and stay out."""
        return {key: getattr(self, key) for key in ("name", "examples", "status", "bytes_up", "bytes_down", "seconds")}


@dataclass(frozen=True, slots=True, eq=False)
class PublicTeacher:
    """The pretrained student as one more teacher: soft labels (texts, classes), confidence (texts,), examples."""

    soft_labels: SoftLabels
    confidence: Float[np.ndarray, "texts"]
    examples: int


@dataclass(slots=True)
class Outcome:
    """What the strategy has computed so far; complete at any time, so that a failed run loses nothing."""

    clients: dict[str, ClientRecord] = field(default_factory=dict)
    before: dict[str, Metrics] = field(default_factory=dict)
    after: dict[str, Metrics] = field(default_factory=dict)
    distillations: list[DistillationResult] = field(default_factory=list)


class KnotStrategy(Strategy):
    """Federated distillation of a student from clients' soft labels (KNOT, COLING 2022).

    Parameters
    ----------
    config
        The run's configuration.
    student
        The student, pretrained or not; distilled in place.
    transfer
        The shared unlabelled texts.
    folder
        Where pooled soft labels and rounds are written.
    public_teacher
        The pretrained student's answers on the transfer set, or None when it was not pretrained.
    public
        The public labelled training examples, read where `distill.supervised` is above 0.

    Raises
    ------
    ConfigError
        If a user's own loss or scheme cannot be imported.
    GroundCostError
        If the ground cost does not fit.
    """

    def __init__(
        self,
        config: RunConfig,
        student: TextClassifier,
        transfer: TransferSet,
        folder: RunFolder,
        public_teacher: PublicTeacher | None,
        public: LabelledTexts,
    ) -> None:
        self.config = config
        self.labels = config.label_space()
        self.student = student
        self.transfer = transfer
        self.folder = folder
        self.public_teacher = public_teacher
        self.loss = make_loss(config)
        find_scheme(config.weights.scheme)
        self.supervision = _supervision(config, student, public)
        self.outcome = Outcome()

    @override
    def summary(self) -> None:
        config = self.config
        logger.info(
            "%s: %s loss, %s objective, %s weights, %d round(s) over %d transfer texts",
            config.task, config.distill.loss, config.distill.objective, config.weights.scheme, config.rounds,
            len(self.transfer),
        )  # fmt: skip

    def run(self, grid: Grid) -> Outcome:
        """Shake hands, measure the student, run all rounds, and measure it again.

        Raises
        ------
        FederationError
            If fewer than `min-teachers` clients pass the handshake or answer a round.
        """
        self.open(grid)
        state = wire.pack_state(trained_state(self.student))
        replies = grid.send_and_receive(
            self.configure_evaluate(0, state, ConfigRecord(), grid), timeout=self.config.timeout
        )
        self.aggregate_evaluate(0, replies)
        self.start(grid, state, num_rounds=self.config.rounds, timeout=self.config.timeout)
        return self.outcome

    def open(self, grid: Grid) -> None:
        """Wait for the clients and compare protocol, labels and transfer set with each."""
        ours = wire.Handshake(wire.PROTOCOL, wire.canonical_labels(self.labels), self.transfer.fingerprint)
        node_ids = wait_for_nodes(grid, self.config)
        accepted, refused = shake_hands(grid, node_ids, ours, timeout=self.config.timeout)
        for name, (node_id, handshake) in sorted(accepted.items()):
            record = ClientRecord(name, node_id, holds_transfer_set=bool(handshake.fingerprint))
            self.outcome.clients[name] = record
        for label, reason in sorted(refused.items()):
            logger.warning("handshake: %s %s", label, reason)
            self.outcome.clients[label] = ClientRecord(label, 0, status=f"refused: {reason}")
        self._require(len(accepted), refused, "passed the handshake")

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        rows = self.transfer.slice(server_round, self.config.rounds)
        for record in self._sampled(server_round):
            request = wire.TrainRequest(
                round=server_round,
                fingerprint=self.transfer.fingerprint,
                start=rows.start,
                stop=rows.stop,
                transfer=None if record.holds_transfer_set else self.transfer,
            )
            record.holds_transfer_set, record.status = True, "no answer"
            yield self._message(wire.pack_train_request(request), record, "train")

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        answers = self._received(server_round, replies)
        rejected = {name: r.status for name, r in self.outcome.clients.items() if name not in answers}
        self._require(len(answers), rejected, f"answered round {server_round}")
        rows = self.transfer.slice(server_round, self.config.rounds)
        soft_labels, weights = self._teachers(answers, rows)
        pooled = pool_soft_labels(
            soft_labels, weights, pooling=self.config.weights.pooling, trim=self.config.weights.trim
        )
        self.folder.save_pooled(server_round, pooled)
        logger.info(
            "round %d: pooled %d teachers, %d without a valid answer", server_round, len(answers), len(rejected)
        )
        text_weights = agreement_weights(soft_labels, weights, pooled, power=self.config.distill.agreement)
        if self.config.distill.objective == "pooled":
            soft_labels, weights = pooled[None], np.ones((1, len(pooled)))
        distillation = distil_student(
            self.student, self.transfer.texts[rows.start : rows.stop], soft_labels, weights * text_weights, self.loss,
            self.config.distill, seed=round_seed(self.config.seed, server_round), supervision=self.supervision,
        )  # fmt: skip
        self.outcome.distillations.append(distillation)
        self._log_round(server_round, answers, distillation)
        return wire.pack_state(trained_state(self.student)), None

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        for record in self._joined():
            yield self._message(wire.pack_evaluate_request(self.student.spec.to_json(), arrays), record, "evaluate")

    @override
    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        domains = self.outcome.after if server_round else self.outcome.before
        for record, reply in self._by_client(replies):
            try:
                domains[record.name] = wire.unpack_metrics(_content(reply))
            except WireError as error:
                logger.warning("round %d: %s: evaluation %s", server_round, record.name, error)
        return None

    def _joined(self) -> list[ClientRecord]:
        return [record for _, record in sorted(self.outcome.clients.items()) if record.node_id]

    def _sampled(self, server_round: int) -> list[ClientRecord]:
        joined = self._joined()
        count = max(self.config.min_teachers, int(np.ceil(self.config.fraction * len(joined))))
        generator = np.random.default_rng([self.config.seed, server_round])
        rows = sorted(generator.permutation(len(joined))[:count])
        return [joined[row] for row in rows]

    def _message(self, content: RecordDict, record: ClientRecord, kind: str) -> Message:
        record.bytes_down += wire.count_bytes(content)
        return Message(content, dst_node_id=record.node_id, message_type=kind)

    def _by_client(self, replies: Iterable[Message]) -> list[tuple[ClientRecord, Message]]:
        records = {record.node_id: record for record in self._joined()}
        pairs = [(records[r.metadata.src_node_id], r) for r in replies if r.metadata.src_node_id in records]
        for record, reply in pairs:
            record.bytes_up += wire.count_bytes(reply.content) if reply.has_content() else 0
        return sorted(pairs, key=lambda pair: pair[0].name)

    def _received(self, server_round: int, replies: Iterable[Message]) -> dict[str, wire.TrainReply]:
        rows = self.transfer.slice(server_round, self.config.rounds)
        answers: dict[str, wire.TrainReply] = {}
        for record, reply in self._by_client(replies):
            try:
                answer = wire.unpack_soft_labels(
                    _content(reply), round_number=server_round, examples=len(rows), labels=self.labels
                )
            except WireError as error:
                record.status = f"rejected: {error}"
                logger.warning("round %d: %s: %s", server_round, record.name, error)
            else:
                record.status, record.examples = "ok", answer.examples
                record.seconds += answer.seconds
                answers[record.name] = answer
        return answers

    def _teachers(
        self, answers: dict[str, wire.TrainReply], rows: range
    ) -> tuple[Float[np.ndarray, "clients examples classes"], Float[np.ndarray, "clients examples"]]:
        ordered = [answers[name] for name in sorted(answers)]
        soft_labels = [answer.soft_labels for answer in ordered]
        confidences = [answer.confidence for answer in ordered]
        examples = [answer.examples for answer in ordered]
        if self.public_teacher is not None:
            soft_labels.append(self.public_teacher.soft_labels[rows.start : rows.stop])
            confidences.append(self.public_teacher.confidence[rows.start : rows.stop])
            examples.append(self.public_teacher.examples)
        stacked = np.stack(soft_labels).astype(np.float64)
        weights = client_weights(
            self.config.weights.scheme,
            examples=np.asarray(examples),
            confidences=np.stack(confidences).astype(np.float64),
            soft_labels=stacked,
            power=self.config.weights.power,
        )
        return stacked, weights

    def _require(self, count: int, refused: dict[str, str], what: str) -> None:
        if count < self.config.min_teachers:
            listed = "; ".join(f"{name}: {reason}" for name, reason in sorted(refused.items())) or "no client answered"
            raise FederationError(
                f"{count} client(s) {what}, min-teachers is {self.config.min_teachers} ({listed});"
                " mend these clients or lower min-teachers"
            )

    def _log_round(
        self, server_round: int, answers: dict[str, wire.TrainReply], distillation: DistillationResult
    ) -> None:
        self.folder.append_round(
            {
                "round": server_round,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "teachers": {name: {"reused": a.reused, "seconds": a.seconds} for name, a in sorted(answers.items())},
                "train_losses": list(distillation.train_losses),
                "validation_losses": list(distillation.validation_losses),
                "best_epoch": distillation.best_epoch,
                "seconds": distillation.seconds,
            }
        )


def round_seed(seed: int, server_round: int) -> int:
    """Derive one round's seed from the run's."""
    return int(np.random.SeedSequence([seed, server_round]).generate_state(1)[0])


def _supervision(config: RunConfig, student: TextClassifier, public: LabelledTexts) -> PublicCrossEntropy | None:
    if not config.distill.supervised:
        return None
    return PublicCrossEntropy(
        student, public, weight=config.distill.supervised, weigh_classes=config.teacher.class_weights, seed=config.seed
    )


def _content(reply: Message) -> RecordDict:
    if not reply.has_content():
        raise WireError(f"failed with error {reply.error.code}; see the client's log")
    reason = wire.refusal_of(reply.content)
    if reason is not None:
        raise WireError(reason)
    return reply.content
