"""KnotStrategy: which clients are asked, what they are asked, and what is done with their answers."""

import logging
import time
from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from jaxtyping import Float
from typing_extensions import override

from knot_fed.aggregation import agreement_weights, client_weights, find_scheme, pool_soft_labels
from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import WireError, phase
from knot_fed.federation.server.checkpoint import Checkpoint, Received, Teachers, kept_privacy, pack_answers
from knot_fed.federation.server.nodes import content_of
from knot_fed.federation.server.roster import ClientRecord, Roster
from knot_fed.federation.wire import envelope, exchange
from knot_fed.losses import make_loss
from knot_fed.models import TextClassifier, trained_state
from knot_fed.runs.method import settings_in_words
from knot_fed.runs.run_folder import RunFolder
from knot_fed.training.distillation import (
    SATURATED,
    DistillationResult,
    PublicCrossEntropy,
    distil_student,
    distillation_settings,
)
from knot_fed.training.fitting import FitState
from knot_fed.training.teacher import best_temperature
from knot_fed.types import LabelledTexts, SplitExamples, TeacherAnswer

ATTEMPTS = 3
POLL_SECONDS = 1.0
REMEDY = "try another distill.learning-rate, a larger distill.patience, or a start trained for fewer teacher.epochs"
"""For a student that keeps its start."""

logger = logging.getLogger("knot_fed")


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
        The public labelled examples: its validation split fits the student's temperature, and its training split is
        read where `distill.supervised` is above 0.

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
        public_teacher: TeacherAnswer | None,
        public: SplitExamples,
    ) -> None:
        self.config = config
        self.labels = config.label_space()
        self.student = student
        self.transfer = transfer
        self.folder = folder
        self.public_teacher = public_teacher
        self.loss = make_loss(config)
        find_scheme(config.weights.scheme)
        self.supervision = _supervision(config, student, public.train)
        self.public_validation = public.val
        self.roster = Roster(config, rounds=config.rounds)
        self._answered: set[int] = set()
        self._asked: set[str] = set()

    @override
    def summary(self) -> None:
        config = self.config
        logger.info(
            "%s: %s, %d round(s) over %d transfer texts%s",
            config.task, settings_in_words(distillation_settings(config)), config.rounds, len(self.transfer),
            "" if self.public_teacher is None else "; the pretrained student counts as one more teacher",
        )  # fmt: skip

    def run(self, grid: Grid) -> None:
        """Shake hands, measure the student, run all rounds, and measure it again; go on where the run was cut short.

        Raises
        ------
        FederationError
            If fewer than `min-teachers` clients pass the handshake or answer a round.
        RunFolderError
            If the checkpoint to go on from is damaged, or the disk is full.
        """
        self.summary()
        resumed = Checkpoint.load(self.folder.checkpoint) if self.config.resume else None
        with phase("the handshake"):
            self.roster.open(grid, self.transfer)
        if resumed is None:
            self._measure(0, grid)
        else:
            self._go_on(resumed)
            self._measure(resumed.round, grid)
        for server_round in range(resumed.round + 1 if resumed else 1, self.config.rounds + 1):
            with phase(f"round {server_round}"):
                self.aggregate_train(server_round, self._ask(server_round, grid))
            self._measure(server_round, grid)

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.roster.welcome(grid, self.transfer)
        self.roster.round, messages = server_round, []
        for record in self._sampled(server_round):
            self._asked.add(record.name)
            request = self._request(server_round, record)
            messages.append(self.roster.message(exchange.pack_train_request(request), record, "train"))
        return messages

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        answers = self._received(server_round, replies)
        rejected = {name: r.status for name, r in self.roster.outcome.clients.items() if name not in answers}
        self.roster.require(len(answers), rejected, f"answered round {server_round}")
        self.roster.log_round(len(answers), asked=len(self._asked))
        self._learn(server_round, answers)
        return envelope.pack_arrays(trained_state(self.student)), None

    def _ask(self, server_round: int, grid: Grid) -> list[Message]:
        """Ask for a round's answers; where too few came, wait for the clients that are away, and ask them again."""
        deadline, replies = time.monotonic() + self.config.timeout, list[Message]()
        self._answered, self._asked = set(), set()
        for _ in range(ATTEMPTS):
            messages = list(self.configure_train(server_round, ArrayRecord(), ConfigRecord(), grid))
            given = grid.send_and_receive(messages, timeout=max(0.0, deadline - time.monotonic()))
            replies += self.roster.ask_again(grid, messages, given, timeout=max(0.0, deadline - time.monotonic()))
            self._answered = {reply.metadata.src_node_id for reply in replies if reply.has_content()}
            if len(self._answered) >= self.config.min_teachers or not self._await_return(grid, deadline):
                break
            logger.info("round %d: %d answer(s) are too few, asking the rest again", server_round, len(self._answered))
        return replies

    def _await_return(self, grid: Grid, deadline: float) -> bool:
        while time.monotonic() + POLL_SECONDS < deadline:
            time.sleep(POLL_SECONDS)
            if set(grid.get_node_ids()) - self._answered:
                return True
        return False

    def _measure(self, server_round: int, grid: Grid) -> None:
        with phase("evaluation"):
            state = envelope.pack_arrays(trained_state(self.student))
            messages = list(self.configure_evaluate(server_round, state, ConfigRecord(), grid))
            timeout = self.config.timeout
            given = grid.send_and_receive(messages, timeout=timeout)
            self.aggregate_evaluate(server_round, self.roster.ask_again(grid, messages, given, timeout=timeout))

    def _go_on(self, resumed: Checkpoint) -> None:
        """Put back what the checkpoint holds, and learn on from the soft labels that were received."""
        outcome, number = self.roster.outcome, resumed.round
        self.roster.restore(resumed.clients)
        outcome.before |= resumed.before
        outcome.distillations += resumed.distillations
        if self.supervision is not None and resumed.supervision is not None:
            self.supervision.state = resumed.supervision
        self.folder.keep_rounds(before=number)
        logger.info("round %d goes on from epoch %d", number, len(resumed.fit.facts["losses"]))
        self._learn_on(resumed)

    def _learn_on(self, resumed: Checkpoint) -> None:
        size = len(self.transfer.slice(resumed.round, self.config.rounds))
        answers = {
            name: exchange.unpack_soft_labels(
                envelope.content_from_bytes(kept),
                round_number=resumed.round,
                examples=size,
                labels=self.labels,
                privacy=kept_privacy(self.config.privacy),
            )
            for name, kept in resumed.received.answers.items()
        }
        self._learn(resumed.round, answers, start=resumed.fit)

    def _learn(
        self, server_round: int, answers: dict[str, exchange.TrainReply], *, start: FitState | None = None
    ) -> None:
        """Pool the answers of a round and distil the student."""
        rows = self.transfer.slice(server_round, self.config.rounds)
        soft_labels, weights = self._teachers(answers, rows)
        pooled = pool_soft_labels(
            soft_labels, weights, pooling=self.config.weights.pooling, trim=self.config.weights.trim
        )
        self.folder.save_pooled(server_round, pooled)
        text_weights = agreement_weights(soft_labels, weights, pooled, power=self.config.distill.agreement)
        if self.config.distill.objective == "pooled":
            soft_labels, weights = pooled[None], np.ones((1, len(pooled)))
        teachers = {name: {"reused": a.reused, "seconds": a.seconds} for name, a in sorted(answers.items())}
        received = Received(teachers, answers=pack_answers(server_round, answers, self.config.privacy))
        self._distil(server_round, soft_labels, weights * text_weights, received, start=start)

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.roster.look(grid)
        temperature = best_temperature(self.student, self.public_validation)
        return self.roster.ask_metrics(self.student.spec.to_json(), arrays, temperature=temperature)

    @override
    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        self.roster.read_metrics(replies, self.roster.outcome.after if server_round else self.roster.outcome.before)
        return None

    def _request(self, server_round: int, record: ClientRecord) -> exchange.TrainRequest:
        rows = self.transfer.slice(server_round, self.config.rounds)
        transfer = None if record.holds_transfer_set else self.transfer
        record.status = "no answer"
        return exchange.TrainRequest(server_round, self.transfer.fingerprint, rows.start, rows.stop, transfer)

    def _distil(
        self,
        server_round: int,
        soft_labels: Float[np.ndarray, "teachers examples classes"],
        weights: Float[np.ndarray, "teachers examples"],
        received: Received,
        *,
        start: FitState | None,
    ) -> None:
        """Distil the student from a round's soft labels, with a checkpoint at each epoch."""
        rows = self.transfer.slice(server_round, self.config.rounds)
        with phase(f"distillation of round {server_round}"):
            distillation = distil_student(
                self.student, self.transfer.texts[rows.start : rows.stop], soft_labels, weights, self.loss,
                self.config.distill, seed=round_seed(self.config.seed, server_round), supervision=self.supervision,
                start=start, keep=lambda state: self._keep(server_round, received, state),
            )  # fmt: skip
        if distillation.unmoved:
            logger.warning(
                "round %d: the student kept its start, no epoch of %d lowered its held-out loss; %.0f %% of the"
                " transfer texts have a top probability above %g: %s",
                server_round, distillation.epochs_run, 100 * distillation.saturated, SATURATED, REMEDY,
            )  # fmt: skip
        self.roster.outcome.distillations.append(distillation)
        self._log_round(server_round, received.teachers, distillation)

    def _sampled(self, server_round: int) -> list[ClientRecord]:
        joined = self.roster.present()
        count = max(self.config.min_teachers, int(np.ceil(self.config.fraction * len(joined))))
        generator = np.random.default_rng([self.config.seed, server_round])
        rows = sorted(generator.permutation(len(joined))[:count])
        return [joined[row] for row in rows if joined[row].node_id not in self._answered]

    def _received(self, server_round: int, replies: Iterable[Message]) -> dict[str, exchange.TrainReply]:
        rows = self.transfer.slice(server_round, self.config.rounds)
        answers: dict[str, exchange.TrainReply] = {}
        for record, reply in self.roster.by_client(replies):
            try:
                answer = exchange.unpack_soft_labels(
                    content_of(reply), round_number=server_round, examples=len(rows), labels=self.labels,
                    privacy=self.config.privacy,
                )  # fmt: skip
            except WireError as error:
                record.status = f"rejected: {error}"
                logger.warning("round %d: %s: %s", server_round, record.name, error)
            else:
                record.status, record.examples, record.claim = "ok", answer.examples, answer.claim
                record.rounds += 1
                record.holds_transfer_set = True
                record.seconds += answer.seconds
                answers[record.name] = answer
            self.roster.log_reply(reply, record, outcome=record.status)
        return answers

    def _teachers(
        self, answers: dict[str, exchange.TrainReply], rows: range
    ) -> tuple[Float[np.ndarray, "clients examples classes"], Float[np.ndarray, "clients examples"]]:
        ordered = [answers[name] for name in sorted(answers)]
        soft_labels = [answer.soft_labels for answer in ordered]
        confidences = [answer.confidence for answer in ordered]
        examples = [answer.examples for answer in ordered]
        if self.public_teacher is not None:
            soft_labels.append(self.public_teacher.soft_labels[rows.start : rows.stop])
            confidences.append(self.public_teacher.scores[rows.start : rows.stop])
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

    def _keep(self, server_round: int, received: Received, state: FitState) -> None:
        supervision = self.supervision.state if self.supervision is not None else None
        Checkpoint.of(server_round, received, self.roster.outcome, supervision, state).save(self.folder)

    def _log_round(self, server_round: int, teachers: Teachers, distillation: DistillationResult) -> None:
        self.folder.append_round(
            {
                "round": server_round,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "teachers": teachers,
                "train_losses": list(distillation.train_losses),
                "validation_losses": list(distillation.validation_losses),
                "best_epoch": distillation.best_epoch,
                "unmoved": distillation.unmoved,
                "saturated": distillation.saturated,
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
