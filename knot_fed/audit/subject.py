"""What an audit attacks: a run's clients with all their data in one process, and teachers trained as the run would."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from knot_fed.aggregation import agreement_weights, client_weights, pool_soft_labels
from knot_fed.confidence import prediction_bias, teacher_scores
from knot_fed.config import NodeConfig, RunConfig, Scalar
from knot_fed.data.transfer_set import TransferSet
from knot_fed.distillation import distil_student
from knot_fed.evaluation import evaluate_classifier, mean_metrics
from knot_fed.federation.client import Client
from knot_fed.federation.release import private_schedule, shard_teachers
from knot_fed.federation.server import read_server_data, start_student
from knot_fed.federation.strategy import round_seed
from knot_fed.losses import make_loss
from knot_fed.models import PrivateSchedule, TextClassifier
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.mechanisms import noise_event, noisy_soft_labels, noisy_votes
from knot_fed.shards import ShardTeachers
from knot_fed.teacher import load_or_train_teacher, predict_soft_labels, train_private_teacher, train_teacher
from knot_fed.types import LabelledTexts, Metrics, SoftLabels, SplitExamples, Text


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A trained teacher behind its client's door: what can be asked of it, and what of that would leave.

    Parameters
    ----------
    config
        The run's configuration.
    model
        The teacher, trained by the run's mechanism; under `pate`, those of the shards.
    noise
        Put on each soft label, or on the votes; None under mechanisms that leave answers alone.
    """

    config: RunConfig
    model: TextClassifier | ShardTeachers
    noise: NoiseEvent | None

    def __call__(self, texts: Sequence[Text]) -> SoftLabels:
        """Return the soft labels that the client would release, with fresh noise; most attackers see nothing else."""
        temperature, generator = self.config.teacher.temperature, np.random.default_rng()
        if isinstance(self.model, ShardTeachers):
            return noisy_votes(
                self.model(texts, temperature=temperature), noise_multiplier=self._noise_multiplier,
                labels_only=self.config.privacy.votes == "labels", generator=generator,
            )  # fmt: skip
        answers = predict_soft_labels(self.model, texts, temperature=temperature)
        if self.noise is None:
            return answers
        return noisy_soft_labels(answers, noise_multiplier=self._noise_multiplier, generator=generator)

    @property
    def _noise_multiplier(self) -> float:
        return self.noise.noise_multiplier if self.noise else 0.0

    def bias(self, *, seed: int) -> Float[np.ndarray, "classes"]:
        """Return the prediction bias, which never leaves a client; the mean over shards, if there are any."""
        models = self.model.models if isinstance(self.model, ShardTeachers) else [self.model]
        biases = [prediction_bias(model, generator=np.random.default_rng(seed)) for model in models if model]
        return np.asarray(np.mean(biases, axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One teacher's soft labels on some texts, with what the server weighs them by."""

    soft_labels: SoftLabels
    confidences: Float[np.ndarray, "texts"]
    examples: int


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
        spec, cache = self.client.spec(self.transfer), self.client.features
        schedule, noise = self._mechanism()
        model: TextClassifier | ShardTeachers
        if self.client.run.privacy.mechanism == "pate":
            model = shard_teachers(self.client, spec, train, seed=seed, folder=None)
        elif schedule is not None:
            generator = np.random.default_rng()
            model = train_private_teacher(
                spec, train, schedule, seed=seed, generator=generator, feature_cache=cache
            )  # fmt: skip
        else:
            examples = replace(self.examples, train=train)
            model = train_teacher(spec, examples, self.client.run.teacher, seed=seed, feature_cache=cache)
        return Teacher(self.client.run, model, noise)

    def run_teacher(self) -> Teacher:
        """Return the run's own teacher, trained on all private examples, from the state folder if it is there."""
        schedule, noise = self._mechanism()
        client, spec, folder = self.client, self.client.spec(self.transfer), self.client.state / "teachers"
        if client.run.privacy.mechanism == "pate":
            shards = shard_teachers(client, spec, self.examples.train, seed=client.seed(), folder=folder)
            return Teacher(client.run, shards, noise)
        model, _ = load_or_train_teacher(
            spec, self.examples, client.run.teacher, seed=client.seed(), folder=folder,
            feature_cache=client.features, private=schedule,
        )  # fmt: skip
        return Teacher(client.run, model, noise)

    def _mechanism(self) -> tuple[PrivateSchedule | None, NoiseEvent | None]:
        """Return how DP-SGD trains, and the noise on what the teacher says, each None under any other mechanism."""
        privacy, texts = self.client.run.privacy, len(self.transfer)
        noise = noise_event(privacy, texts=texts, asked=texts)
        return private_schedule(privacy, noise), None if privacy.mechanism == "dp-sgd" else noise

    def answer(self, teacher: Teacher, texts: Sequence[Text]) -> Answer:
        """Answer for these texts as the client would: soft labels, and the score that the run weighs by."""
        soft_labels, private = teacher(texts), self.examples.train.texts
        if isinstance(teacher.model, ShardTeachers):
            return Answer(soft_labels, np.zeros(len(texts), np.float32), len(private))
        scores = self.client.confidence(teacher.model, soft_labels, texts=texts, private=private)
        return Answer(soft_labels, scores, len(private))


@dataclass(frozen=True, slots=True, eq=False)
class Federation:
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
    def open(cls, config: RunConfig, *, clients: int) -> "Federation":
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

    def changed(self, keys: Mapping[str, Scalar]) -> "Federation":
        """Return the same run with other settings of weighing and distilling."""
        config = RunConfig.from_mapping(self.config.to_mapping() | dict(keys))
        return Federation(config, self.subjects, self.transfer, self.public)

    def start(self) -> TextClassifier:
        """Return a new copy of the student before distillation."""
        return start_student(self.config, self.public, self.transfer)

    def public_answer(self, texts: Sequence[Text]) -> Answer | None:
        """Return what the pretrained student says as one more teacher, or None if it is not pretrained."""
        if not self.config.student.pretrain:
            return None
        student, private = self.start(), self.public.train.texts
        soft_labels = predict_soft_labels(student, texts, temperature=self.config.teacher.temperature)
        generator = np.random.default_rng(self.config.seed)
        scheme = self.config.weights.scheme
        scores = teacher_scores(scheme, student, soft_labels, texts=texts, private=private, generator=generator)
        return Answer(soft_labels, scores, len(private))

    def weights(self, answers: Sequence[Answer]) -> Float[np.ndarray, "teachers texts"]:
        """Weigh the teachers as the server would."""
        return client_weights(
            self.config.weights.scheme,
            examples=np.array([answer.examples for answer in answers]),
            confidences=np.stack([answer.confidences for answer in answers]).astype(np.float64),
            soft_labels=stacked(answers),
            power=self.config.weights.power,
        )

    def distil(self, texts: Sequence[Text], answers: Sequence[Answer]) -> TextClassifier:
        """Distil a student as the server would, from all texts in one round; without supervision by public labels."""
        settings, student = self.config.distill, self.start()
        soft_labels, weights = stacked(answers), self.weights(answers)
        pooled = pool_soft_labels(
            soft_labels, weights, pooling=self.config.weights.pooling, trim=self.config.weights.trim
        )
        shares = agreement_weights(soft_labels, weights, pooled, power=settings.agreement)
        if settings.objective == "pooled":
            soft_labels, weights = pooled[None], np.ones((1, len(pooled)))
        seed = round_seed(self.config.seed, 1)
        distil_student(student, texts, soft_labels, weights * shares, make_loss(self.config), settings, seed=seed)
        return student

    def judge(self, student: TextClassifier) -> Metrics:
        """Measure a student on every client's private test split and the public one, and average."""
        tests: list[LabelledTexts] = [subject.examples.test for subject in self.subjects] + [self.public.test]
        labels = self.config.label_space()
        return mean_metrics(
            [evaluate_classifier(predict_soft_labels(student, test.texts), test.labels, labels) for test in tests]
        )


def stacked(answers: Sequence[Answer]) -> Float[np.ndarray, "teachers texts classes"]:
    """Put soft labels of several teachers in one array."""
    return np.stack([answer.soft_labels for answer in answers]).astype(np.float64)
