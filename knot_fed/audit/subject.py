"""What an audit attacks: a run's clients with all their data in one process, and teachers trained as the run would."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from knot_fed.aggregation import Consensus, find_consensus
from knot_fed.config import NodeConfig, RunConfig, Scalar
from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.client.release import TEACHERS, teacher_plan
from knot_fed.federation.client.settings import Client
from knot_fed.federation.server.learning import round_seed
from knot_fed.federation.server.run import pretrained_student, read_server_data, start_student
from knot_fed.losses import make_loss
from knot_fed.mechanisms import OwnTeacher, mechanism_of, public_teacher
from knot_fed.models import TextClassifier
from knot_fed.privacy.compression import as_received
from knot_fed.training.distillation import distil_student
from knot_fed.training.evaluation import evaluate_classifier, mean_metrics
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import LabelledTexts, Metrics, SoftLabels, SplitExamples, TeacherAnswer, Text


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A trained teacher as an attacker sees it: what leaves its client for texts, and what is made of that on the way.

    Parameters
    ----------
    own
        The teacher behind its client's door.
    given
        Rows that left before: the same text gets the same row, as in a run.
    """

    own: OwnTeacher
    given: dict[Text, np.ndarray] = field(default_factory=dict)

    def __call__(self, texts: Sequence[Text]) -> SoftLabels:
        """Return the soft labels as the server reads them."""
        return self.answer(texts).soft_labels

    def answer(self, texts: Sequence[Text]) -> TeacherAnswer:
        """Answer for these texts as the client would, after compression."""
        privacy = self.own.run.privacy
        return as_received(mechanism_of(privacy).answer(self.own, texts, rows=self._rows), privacy)

    def _rows(self, texts: Sequence[Text]) -> SoftLabels:
        new = [text for text in dict.fromkeys(texts) if text not in self.given]
        if new:
            drawn = mechanism_of(self.own.run.privacy).rows(self.own, new)
            self.given.update(zip(new, drawn, strict=True))
        return np.stack([self.given[text] for text in texts])

    def bias(self, *, seed: int) -> Float[np.ndarray, "classes"]:
        """Return the prediction bias, which never leaves a client."""
        return self.own.bias(seed=seed)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One client of a run, opened for the auditor.

    Parameters
    ----------
    client
        Its settings.
    examples
        Its private examples.
    transfer
        The run's transfer set.
    """

    client: Client
    examples: SplitExamples
    transfer: TransferSet

    def train(self, train: LabelledTexts, seed: int) -> Teacher:
        """Train a teacher as the run would, on other examples and by another seed; every attack trains by this."""
        return self._trained(replace(self.examples, train=train), seed, folder=None)

    def run_teacher(self) -> Teacher:
        """Return the run's own teacher, trained on all private examples, from the state folder if it is there."""
        return self._trained(self.examples, self.client.seed(), folder=self.client.state / TEACHERS)

    def _trained(self, examples: SplitExamples, seed: int, *, folder: Path | None) -> Teacher:
        plan = teacher_plan(self.client, examples, self.transfer, seed=seed, asked=len(self.transfer))
        own, _ = mechanism_of(plan.run.privacy).train(plan, folder=folder, features=self.client.features)
        return Teacher(own)


@dataclass(frozen=True, slots=True, eq=False)
class OpenedRun:
    """A whole run in one process, without messages: its clients, its public data, and its distillation.

    Parameters
    ----------
    config
        The run's configuration, one seed.
    subjects
        The clients.
    transfer, public
        What the server holds.
    """

    config: RunConfig
    subjects: Sequence[Subject]
    transfer: TransferSet
    public: SplitExamples

    @classmethod
    def open(cls, config: RunConfig, *, clients: int) -> "OpenedRun":
        """Read all data of a run of virtual clients.

        Raises
        ------
        DataError
            If a file breaks a rule.
        """
        transfer, public = read_server_data(config)
        subjects = []
        for index in range(clients):
            client = Client.from_configs(
                config, NodeConfig.from_mapping({"partition-id": index, "num-partitions": clients})
            )
            subjects.append(Subject(client, client.examples()[0], transfer))
        return cls(config, subjects, transfer, public)

    def changed(self, keys: Mapping[str, Scalar]) -> "OpenedRun":
        """Return the same run with other settings of weighing and distilling."""
        config = RunConfig.from_mapping(self.config.to_mapping() | dict(keys))
        return OpenedRun(config, self.subjects, self.transfer, self.public)

    def start(self) -> TextClassifier:
        """Return a new copy of the student before distillation."""
        return start_student(self.config, self.public, self.transfer)

    def pretrained(self) -> TextClassifier:
        """Return a new copy of the student as it was trained on the public labelled set."""
        return pretrained_student(self.config, self.public, self.transfer)

    def public_answer(self, texts: Sequence[Text]) -> TeacherAnswer | None:
        """Return what the pretrained student says as one more teacher, or None if it is not pretrained."""
        if not self.config.student.pretrain:
            return None
        own = public_teacher(self.config, self.pretrained(), self.public.train.texts)
        return mechanism_of(own.run.privacy).answer(own, texts)

    def consensus(self, answers: Sequence[TeacherAnswer]) -> Consensus:
        """Weigh and pool the answers as the server would."""
        return find_consensus(answers, self.config.weights, self.config.distill)

    def distil(self, texts: Sequence[Text], answers: Sequence[TeacherAnswer]) -> TextClassifier:
        """Distil a student as the server would, from all texts in one round; without supervision by public labels."""
        student, found = self.start(), self.consensus(answers)
        distil_student(
            student, texts, found.targets, found.weights, make_loss(self.config), self.config.distill,
            seed=round_seed(self.config.seed, 1),
        )  # fmt: skip
        return student

    def judge(self, student: TextClassifier) -> Metrics:
        """Measure a student on every client's private test split and the public one, and average."""
        tests: list[LabelledTexts] = [subject.examples.test for subject in self.subjects] + [self.public.test]
        labels = self.config.label_space()
        return mean_metrics(
            [evaluate_classifier(predict_soft_labels(student, test.texts), test.labels, labels) for test in tests]
        )
