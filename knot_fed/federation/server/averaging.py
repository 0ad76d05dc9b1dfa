"""Flower's own FedAvg with our roster: every reply checked, every byte counted."""

import logging
from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from typing_extensions import override

from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import WireError
from knot_fed.federation.server.nodes import content_of
from knot_fed.federation.server.roster import Roster
from knot_fed.federation.wire import envelope, student_wire
from knot_fed.models import TextClassifier, load_trained_state, trained_state
from knot_fed.training.teacher import best_temperature
from knot_fed.types import LabelledTexts, Metrics

logger = logging.getLogger("knot_fed")


class CountedFedAvg(FedAvg):
    """Federated averaging of the student's parameters (McMahan et al. 2017), the reference line of our own strategy.

    All clients train in every round; the mean is Flower's, weighted by training examples. Nothing selects a round:
    the student is the last one's mean.
    Flower would wait for missing nodes without end, so that `min-teachers` is asked of the answers instead.

    Parameters
    ----------
    config
        The run's configuration.
    student
        The student, pretrained or not; trained in place.
    transfer
        The transfer set, which the handshake compares; nothing else reads it.
    validation
        The public validation split, on which the temperature of `sd_calibrated` is fitted.
    """

    def __init__(
        self, config: RunConfig, student: TextClassifier, transfer: TransferSet, validation: LabelledTexts
    ) -> None:
        super().__init__(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=1,
            min_available_nodes=1,
            weighted_by_key=student_wire.EXAMPLES,
            arrayrecord_key=student_wire.STUDENT,
            configrecord_key=envelope.ABOUT,
        )
        self.config = config
        self.student = student
        self.transfer = transfer
        self.validation = validation
        self.roster = Roster(config, rounds=config.fedavg.rounds)
        self.bytes_up_in_training: dict[str, int] = {}

    def run(self, grid: Grid) -> None:
        """Shake hands, measure the student, average for all rounds, and measure the last mean.

        Raises
        ------
        FederationError
            If fewer than `min-teachers` clients pass the handshake or answer a round.
        """
        self.roster.open(grid, self.transfer)
        outcome, timeout, spec = self.roster.outcome, self.config.timeout, self.student.spec.to_json()
        before = envelope.pack_arrays(trained_state(self.student))
        self._measure(grid, before, outcome.before)
        about = ConfigRecord({"protocol": envelope.PROTOCOL, "spec": spec})
        result = self.start(grid, before, num_rounds=self.config.fedavg.rounds, timeout=timeout, train_config=about)
        load_trained_state(self.student, student_wire.unpack_state(result.arrays, expected=trained_state(self.student)))
        self._measure(grid, result.arrays, outcome.after)

    def _measure(self, grid: Grid, state: ArrayRecord, domains: dict[str, Metrics]) -> None:
        temperature = best_temperature(self.student, self.validation)
        messages = self.roster.ask_metrics(self.student.spec.to_json(), state, temperature=temperature)
        self.roster.read_metrics(grid.send_and_receive(messages, timeout=self.config.timeout), domains)

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        records = {record.node_id: record for record in self.roster.joined()}
        self.roster.round, messages = server_round, []
        for message in super().configure_train(server_round, arrays, config, grid):
            record = records.get(message.metadata.dst_node_id)
            if record is not None:
                record.status, record.asked_in = "no answer", server_round
                messages.append(self.roster.message(message.content, record, "train"))
        return messages

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        answers: dict[str, Message] = {}
        expected = trained_state(self.student)
        for record, reply in self.roster.by_client(replies):
            try:
                record.examples, seconds = student_wire.check_parameters(content_of(reply), expected=expected)
            except WireError as error:
                record.status = f"rejected: {error}"
                logger.warning("round %d: %s: %s", server_round, record.name, error)
            else:
                record.status, record.seconds = "ok", record.seconds + seconds
                record.rounds += 1
                answers[record.name] = reply
                sent = self.bytes_up_in_training.get(record.name, 0) + envelope.count_bytes(reply.content)
                self.bytes_up_in_training[record.name] = sent
            self.roster.log_reply(reply, record, outcome=record.status)
        rejected = {name: r.status for name, r in self.roster.outcome.clients.items() if name not in answers}
        self.roster.require(len(answers), rejected, f"answered round {server_round}")
        self.roster.log_round(len(answers))
        return super().aggregate_train(server_round, answers.values())
