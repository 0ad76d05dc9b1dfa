"""KnotStrategy: shake hands, collect a round's answers, distil the student from them, and have it evaluated."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from typing_extensions import override

from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import FederationError, phase
from knot_fed.federation.flower.bounded_grid import bounded
from knot_fed.federation.secure.round import make_collector, reply_bounds
from knot_fed.federation.server.checkpoint import Checkpoint
from knot_fed.federation.server.collecting import Collector
from knot_fed.federation.server.facts import data_facts, distillation_facts, privacy_facts
from knot_fed.federation.server.kept_answers import KeptAnswers
from knot_fed.federation.server.learning import Learner
from knot_fed.federation.server.personal import personal_facts, send_consensus
from knot_fed.federation.server.public_owner import PublicOwner
from knot_fed.federation.server.roster import Roster
from knot_fed.federation.server.run import (
    calibrate_start,
    finish_run,
    pretrained_student,
    read_server_data,
    run_between_measurements,
)
from knot_fed.federation.server.tracking import track_round
from knot_fed.federation.wire import envelope
from knot_fed.models import trained_state, use_device, use_threads
from knot_fed.runs.method import settings_in_words
from knot_fed.runs.run_folder import RunFolder
from knot_fed.training.distillation import distillation_settings
from knot_fed.training.teacher import best_temperature
from knot_fed.types import TeacherAnswer

MakeCollector: TypeAlias = Callable[[RunConfig, TransferSet, TeacherAnswer | None], Collector]

PUBLIC_PRETRAINED = "the pretrained student"
PUBLIC_FROM_STUDENT = "a teacher trained on the public examples from each round's student"

logger = logging.getLogger("knot_fed")


class KnotStrategy(Strategy):
    """Federated distillation of a student from clients' soft labels (KNOT, COLING 2022).

    `from_config` builds it from a configuration, and `start` runs it in any `ServerApp`. Unlike Flower's loop, it has
    a handshake, bounds on replies, and a second request to a client that was absent.

    Parameters
    ----------
    learner
        Distils the student, and holds the configuration, the data and the run folder.
    collector
        Collects a round's answers, individually or by a secure sum.
    """

    def __init__(self, learner: Learner, collector: Collector) -> None:
        self.learner = learner
        self.collector = collector
        self.config = learner.config
        self.student = learner.student
        self.public = learner.public
        self.public_owner: PublicOwner | None = None
        self.data_facts: dict[str, dict[str, str | int]] = {}
        self.roster = Roster(self.config, rounds=self.config.rounds)

    @classmethod
    def from_config(
        cls, config: RunConfig, folder: RunFolder, *, make_collector: MakeCollector = make_collector
    ) -> "KnotStrategy":
        """Read the server's data and pretrain the student; raises KnotError if a file or model cannot be used."""
        with phase("preparation"):
            use_threads(config.threads)
            use_device(config, required=True)
            transfer, public = read_server_data(config)
            read = data_facts(config, transfer)
            student = pretrained_student(config, public, transfer)
            owner = PublicOwner(config, student, public, transfer) if config.student.pretrain else None
            answer = owner.answer(student) if owner and not config.sends_student else None
            calibrate_start(config, student, public.val)
            learner = Learner(config, student, transfer, folder, public)
            strategy = cls(learner, make_collector(config, transfer, answer))
            strategy.data_facts, strategy.public_owner = read, owner
            return strategy

    @override
    def summary(self) -> None:
        config, texts = self.config, len(self.learner.transfer)
        owner = PUBLIC_FROM_STUDENT if config.teacher.start == "student" else PUBLIC_PRETRAINED
        more = f"; {owner} counts as one more teacher" if config.student.pretrain else ""
        logger.info(
            "%s: %s, %d round(s) over %d transfer texts%s",
            config.task, settings_in_words(distillation_settings(config)), config.rounds, texts, more,
        )  # fmt: skip

    @override
    def start(self, grid: Grid, *others: object, **options: object) -> Result:
        """Shake hands, measure the student, run all rounds, and measure it after each; resume an interrupted run.

        Over a network, the size of replies to `grid` is bounded. The result's arrays are the student's.

        Parameters
        ----------
        grid
            The grid of the `ServerApp`.
        *others, **options
            Flower's further arguments; all None, since the configuration has their values.

        Raises
        ------
        FederationError
            If any of them is given, or fewer than `min-teachers` clients pass the handshake or answer a round.
        RunFolderError
            If the checkpoint to resume from is damaged, or the disk is full.
        """
        if any(value is not None for value in (*others, *options.values())):
            raise FederationError(
                "KnotStrategy.start takes only the grid: student, rounds and timeout are those of the run's"
                " configuration; call start(grid)"
            )
        grid = bounded(grid, reply_bounds(self.config, texts=len(self.learner.transfer)))
        self.summary()
        resumed = Checkpoint.load(self.learner.folder.checkpoint) if self.config.resume else None
        with phase("the handshake"):
            self.roster.open(grid, self.learner.transfer)
        if resumed is not None:
            resumed.restore(self.roster.outcome)
            self.roster.answered_in_round = len(resumed.received.teachers)
            self.learner.resume(resumed, self.roster.outcome)
        return self.run_rounds(grid, done=resumed.round if resumed else 0)

    def run_rounds(self, grid: Grid, *, done: int = 0) -> Result:
        """Run the rounds after `done` with the clients that the roster holds, and measure the student around each."""
        self._measure(done, grid)
        for server_round in range(done + 1, self.config.rounds + 1):
            with phase(f"round {server_round}"):
                self.roster.count_traffic()
                self._begin_round()
                self.aggregate_train(server_round, self.collector.ask(self.roster, server_round, grid))
            self._measure(server_round, grid)
        return Result(envelope.pack_arrays(trained_state(self.student)))

    def record(self, run: Callable[[], object], *, started: float, answers: str = "", report: bool = True) -> None:
        """Run, evaluate the student before and after, and write the run folder's results; a failed run raises.

        `started` is the time on the monotonic clock, and `answers` names the run whose answers are used again, if any.
        Without `report`, no page is written.
        """
        start_seconds = time.monotonic() - started
        config, outcome = self.config, self.roster.outcome
        failure = run_between_measurements(run, self.student, config, self.public, outcome, self.learner.folder)
        facts: dict[str, object] = {
            "distillation": distillation_facts(config, outcome.distillations),
            "privacy": privacy_facts(config, outcome),
            "data": self.data_facts,
            "answers_of": answers,
            "start_seconds": start_seconds,
            **personal_facts(config, outcome),
        }
        finish_run(
            config, outcome, self.student, self.learner.folder, facts, rounds=config.rounds, started=started,
            failure=failure, report=report,
        )  # fmt: skip

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._begin_round()
        return self.collector.requests(self.roster, server_round, grid)

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        received = self.collector.collect(self.roster, server_round, replies)
        if self.config.keep_answers:
            kept = KeptAnswers.of(received, self.roster, self.learner.transfer.fingerprint)
            kept.save(self.learner.folder, server_round)
            received = replace(received, answers={})  # they need not stay in memory while the student learns
        self.learner.learn(server_round, received, self.roster.outcome)
        return envelope.pack_arrays(trained_state(self.student)), None

    @override
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.roster.look(grid)
        temperature = best_temperature(self.student, self.public.val)
        return self.roster.ask_metrics(self.student.spec.to_json(), arrays, temperature=temperature)

    @override
    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        self.roster.read_metrics(replies, self.roster.outcome.after if server_round else self.roster.outcome.before)
        return None

    def _begin_round(self) -> None:
        """Let this round's teachers start from the student, if they do: those of the clients, and the server's own."""
        if self.config.sends_student:
            self.collector.send_down(self.student)
            self.collector.public_teacher = self.public_owner.answer(self.student) if self.public_owner else None

    def _measure(self, server_round: int, grid: Grid) -> None:
        deadline = time.monotonic() + self.config.timeout
        with phase("evaluation"):
            state = envelope.pack_arrays(trained_state(self.student))
            messages = list(self.configure_evaluate(server_round, state, ConfigRecord(), grid))
            replies = grid.send_and_receive(messages, timeout=deadline - time.monotonic())
            left = max(0.0, deadline - time.monotonic())
            self.aggregate_evaluate(server_round, self.roster.ask_again(grid, messages, replies, timeout=left))
        if server_round and self.collector.reaches_clients:
            send_consensus(self.learner, self.roster, server_round, grid)
        track_round(self.learner.folder.trackers, self.roster, server_round)
