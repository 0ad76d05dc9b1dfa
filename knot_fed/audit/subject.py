"""What an audit attacks: all clients of a run in one process, and teachers trained as the run trains them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from knot_fed.aggregation import Consensus, find_consensus
from knot_fed.config import RunConfig, Scalar
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import ConfigError
from knot_fed.federation.client.release import TEACHERS
from knot_fed.federation.client.settings import Client
from knot_fed.federation.server.learning import round_seed
from knot_fed.federation.server.public_owner import as_teacher
from knot_fed.federation.server.run import pretrained_student, read_server_data, start_student
from knot_fed.geometry import evaluation_labels, learnt_ground_cost
from knot_fed.losses import learns_cost, make_loss
from knot_fed.mechanisms import OwnTeacher, mechanism_of, public_teacher, received_answer
from knot_fed.models import TextClassifier
from knot_fed.sweep.references import open_client, train_as_run
from knot_fed.training.distillation import distil_student
from knot_fed.training.evaluation import evaluate_classifier, mean_metrics
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import LabelledTexts, Metrics, SoftLabels, SplitExamples, TeacherAnswer, Text


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A trained teacher as an attacker sees it; `given` holds earlier rows, which are repeated as in a run."""

    own: OwnTeacher
    given: dict[Text, np.ndarray] = field(default_factory=dict)

    def __call__(self, texts: Sequence[Text]) -> SoftLabels:
        """Return the soft labels as the server reads them."""
        return self.answer(texts).soft_labels

    def answer(self, texts: Sequence[Text]) -> TeacherAnswer:
        """Answer as the server reads it."""
        return received_answer(self.own, texts, rows=self._rows)

    def _rows(self, texts: Sequence[Text]) -> SoftLabels:
        new = [text for text in dict.fromkeys(texts) if text not in self.given]
        if new:
            drawn = mechanism_of(self.own.run.privacy).rows(self.own, new)
            self.given.update(zip(new, drawn, strict=True))
        return np.stack([self.given[text] for text in texts])


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One client of a run with its private examples."""

    client: Client
    examples: SplitExamples
    transfer: TransferSet

    def train(self, train: LabelledTexts, seed: int) -> Teacher:
        """Train a teacher as the run does, on other examples with another seed; all attacks use this."""
        examples = replace(self.examples, train=train)
        return Teacher(train_as_run(self.client, examples, self.transfer, seed=seed, folder=None))

    def run_teacher(self) -> Teacher:
        """Return the run's own teacher, from the state folder if it is stored there."""
        client, folder = self.client, self.client.state / TEACHERS
        return Teacher(train_as_run(client, self.examples, self.transfer, seed=client.seed(), folder=folder))


@dataclass(frozen=True, slots=True, eq=False)
class OpenedRun:
    """A run of one seed in one process, without messages: its clients, its public data and its distillation."""

    config: RunConfig
    subjects: Sequence[Subject]
    transfer: TransferSet
    public: SplitExamples

    @classmethod
    def open(cls, config: RunConfig, *, clients: int) -> "OpenedRun":
        """Read all data of a run of virtual clients.

        Raises DataError if a file is invalid, and ConfigError if teachers start from what earlier rounds have left.
        """
        if config.rounds_differ:
            raise ConfigError(
                f"teacher.start = {config.teacher.start!r}: attacks train a client's teacher by itself, without the"
                " earlier rounds; audit the run with teacher.start = 'scratch'"
            )
        transfer, public = read_server_data(config)
        opened = [open_client(config, index, clients) for index in range(clients)]
        return cls(config, [Subject(each, each.examples()[0], transfer) for each in opened], transfer, public)

    def changed(self, keys: Mapping[str, Scalar]) -> "OpenedRun":
        """Return the same run with other settings of weighting and distillation."""
        return replace(self, config=RunConfig.from_mapping(self.config.to_mapping() | dict(keys)))

    def pretrained(self) -> TextClassifier:
        """Return a new copy of the student as trained on the public labelled set."""
        return pretrained_student(self.config, self.public, self.transfer)

    def public_answers(self, texts: Sequence[Text]) -> list[TeacherAnswer]:
        """Return the answer of the pretrained student as one more teacher; empty if it is not pretrained."""
        if not self.config.student.pretrain:
            return []
        teacher = as_teacher(self.config, self.pretrained(), self.public)
        own = public_teacher(self.config, [teacher], self.public, self.transfer.texts)
        return [mechanism_of(own.run.privacy).answer(own, texts)]

    def consensus(self, answers: Mapping[str, TeacherAnswer], public: Sequence[TeacherAnswer] = ()) -> Consensus:
        """Weigh and pool the answers as the server does: in the order of the clients' names, `public_answers` last."""
        ordered = [answers[name] for name in sorted(answers)]
        return find_consensus([*ordered, *public], self.config.weights, self.config.distill)

    def distil(
        self, texts: Sequence[Text], answers: Mapping[str, TeacherAnswer], public: Sequence[TeacherAnswer] = ()
    ) -> TextClassifier:
        """Distil a student as the server does, on all texts in one round, without supervision by public labels."""
        student, found = start_student(self.config, self.public, self.transfer), self.consensus(answers, public)
        learns = learns_cost(self.config)
        cost = learnt_ground_cost(self.config, found.pooled, student, texts) if learns else None
        distil_student(
            student, texts, found.targets, found.weights, make_loss(self.config, ground_cost=cost),
            self.config.distill, seed=round_seed(self.config.seed, 1),
        )  # fmt: skip
        return student

    def judge(self, student: TextClassifier) -> Metrics:
        """Return the student's mean metrics over every client's private test split and the public one."""
        tests: list[LabelledTexts] = [subject.examples.test for subject in self.subjects] + [self.public.test]
        labels = evaluation_labels(self.config)
        return mean_metrics(
            [evaluate_classifier(predict_soft_labels(student, test.texts), test.labels, labels) for test in tests]
        )
