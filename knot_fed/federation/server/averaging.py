"""Flower's FedAvg over the run's roster: every reply is checked, every byte counted."""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from typing_extensions import override

from knot_fed.config import RunConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.server.nodes import content_of
from knot_fed.federation.server.roster import ClientRecord, Roster
from knot_fed.federation.server.tracking import track_round
from knot_fed.federation.wire import envelope, student_wire
from knot_fed.models import TextClassifier, load_trained_state, trained_state
from knot_fed.runs.trackers.trackers import NO_TRACKERS, Trackers
from knot_fed.training.teacher import best_temperature
from knot_fed.types import LabelledTexts, Metrics


class CountedFedAvg(FedAvg):
    """Federated averaging of the student's parameters (McMahan et al. 2017), the baseline of `KnotStrategy`.

    All clients train in every round; the mean is Flower's, weighted by training examples. The final student, trained
    in place, is the mean of the last round. Flower would wait indefinitely for missing nodes, so `min-teachers` is
    required of the answers instead. The transfer set is read only by the handshake; the temperature of `sd_calibrated`
    is fitted on the public validation split.
    """

    def __init__(
        self,
        config: RunConfig,
        student: TextClassifier,
        transfer: TransferSet,
        validation: LabelledTexts,
        trackers: Trackers = NO_TRACKERS,
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
        self.trackers = trackers
        self.roster = Roster(config, rounds=config.fedavg.rounds)
        self.bytes_up_in_training: dict[str, int] = {}

    def run(self, grid: Grid) -> None:
        """Shake hands, measure the student, average for all rounds, and measure the last mean."""
        self.roster.open(grid, self.transfer)
        outcome, timeout, spec = self.roster.outcome, self.config.timeout, self.student.spec.to_json()
        before = envelope.pack_arrays(trained_state(self.student))
        self._measure(grid, before, outcome.before)
        track_round(self.trackers, self.roster, 0)
        about = ConfigRecord({"protocol": envelope.PROTOCOL, "spec": spec})
        result = self.start(grid, before, num_rounds=self.config.fedavg.rounds, timeout=timeout, train_config=about)
        load_trained_state(self.student, student_wire.unpack_state(result.arrays, expected=trained_state(self.student)))
        self._measure(grid, result.arrays, outcome.after)
        track_round(self.trackers, self.roster, self.roster.rounds)

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
        expected, clients = trained_state(self.student), self.roster.outcome.clients

        def read(_: ClientRecord, reply: Message) -> tuple[int, float, Message]:
            return *student_wire.check_parameters(content_of(reply), expected=expected), reply

        answers = self.roster.read(replies, read)
        for name, (examples, seconds, reply) in answers.items():
            record, sent = clients[name], envelope.count_bytes(reply.content)
            record.examples, record.seconds = examples, record.seconds + seconds
            record.rounds += 1
            self.bytes_up_in_training[name] = self.bytes_up_in_training.get(name, 0) + sent
        self.roster.close_round(answers)
        if server_round < self.roster.rounds:  # the last one is complete with the evaluation
            track_round(self.trackers, self.roster, server_round)
        return super().aggregate_train(server_round, [reply for _, _, reply in answers.values()])
