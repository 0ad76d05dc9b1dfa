"""From an owner's examples to what leaves: the one way for runs, audits and baselines, whatever the mechanism."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from knot_fed.config import PrivacyConfig, RunConfig, TeacherConfig
from knot_fed.errors import PrivacyError
from knot_fed.models import ModelSpec, TextClassifier
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.compression import compress, decompress
from knot_fed.privacy.mechanisms import noisy_soft_labels, noisy_votes
from knot_fed.privacy.noise import NoiseSource
from knot_fed.training.confidence import prediction_bias, teacher_scores
from knot_fed.training.dp_sgd import PrivateSchedule
from knot_fed.training.kept_teachers import digest_of_training, load_or_train_teacher, teacher_digest
from knot_fed.training.shards import UNREAD, ShardTeachers, train_shards
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import SoftLabels, SplitExamples, TeacherAnswer, Text

NOISY = ("pate", "gaussian")
"""Mechanisms that put noise on each soft label, so that the same text must get the same row again."""
Rows: TypeAlias = Callable[[Sequence[Text]], SoftLabels]


@dataclass(frozen=True, slots=True, eq=False)
class OwnTeacher:
    """A trained teacher behind its owner's door: what it can be asked, and what of that leaves.

    Parameters
    ----------
    run
        The run's configuration, made as strict as the owner wants.
    model
        The teacher, trained by the run's mechanism; under `pate`, those of the shards.
    noise
        As `noise_event` gives it; None without a mechanism.
    private
        The texts that it was trained on.
    seed
        Of the random sequences that its prediction bias is measured on.
    logits
        Folder where logits are kept; None: nowhere.
    """

    run: RunConfig
    model: TextClassifier | ShardTeachers
    noise: NoiseEvent | None
    private: Sequence[Text]
    seed: int
    logits: Path | None = None

    def rows(self, texts: Sequence[Text]) -> SoftLabels:
        """Return one soft label for each text as it may leave; under `pate` and `gaussian` with fresh noise.

        Raises
        ------
        PrivacyError
            If a mechanism has no noise.
        """
        temperature, privacy = self.run.teacher.temperature, self.run.privacy
        if isinstance(self.model, ShardTeachers):
            return noisy_votes(
                self.model(texts, temperature=temperature), noise_multiplier=self._noise_multiplier,
                labels_only=privacy.votes == "labels", source=NoiseSource(),
            )  # fmt: skip
        plain = predict_soft_labels(self.model, texts, temperature=temperature, kept=self.logits)
        if privacy.mechanism != "gaussian":
            return plain
        return noisy_soft_labels(plain, noise_multiplier=self._noise_multiplier, source=NoiseSource())

    def answer(self, texts: Sequence[Text], *, rows: Rows | None = None) -> TeacherAnswer:
        """Answer for texts: soft labels, the score per text that the run weighs by, and the number of examples.

        Parameters
        ----------
        texts
            Public texts.
        rows
            Gives the soft labels in the place of `self.rows`, such as noisy ones that left before.
        """
        soft_labels = (rows or self.rows)(texts)
        covered = self.run.privacy.mechanism != "none"
        scores = self._scores(soft_labels, texts)
        return TeacherAnswer(soft_labels, scores, 0 if covered else len(self.private))

    def _scores(self, soft_labels: SoftLabels, texts: Sequence[Text]) -> Float[np.ndarray, "examples"]:
        if isinstance(self.model, ShardTeachers) or self.run.privacy.mechanism in NOISY:
            return np.zeros(len(texts), dtype=np.float32)
        return teacher_scores(
            self.run.weights.scheme, self.model, soft_labels, texts=texts, private=self.private,
            generator=np.random.default_rng(self.seed),
        )  # fmt: skip

    def bias(self, *, seed: int) -> Float[np.ndarray, "classes"]:
        """Return the prediction bias, which never leaves a client; the mean over shards, if there are any."""
        models = self.model.models if isinstance(self.model, ShardTeachers) else [self.model]
        biases = [prediction_bias(model, generator=np.random.default_rng(seed)) for model in models if model]
        return np.asarray(np.mean(biases, axis=0))

    @property
    def _noise_multiplier(self) -> float:
        if self.noise is None:
            raise PrivacyError(f"privacy.mechanism = {self.run.privacy.mechanism!r}: has no noise; nothing leaves")
        return self.noise.noise_multiplier


@dataclass(frozen=True, slots=True, eq=False)
class TeacherPlan:
    """All that determines an owner's teacher and its answers.

    Parameters
    ----------
    run
        The run's configuration, made as strict as the owner wants.
    spec
        The teacher's architecture.
    examples
        The owner's examples.
    seed
        Of initial parameters, order and dropout.
    noise
        As `noise_event` gives it; None without a mechanism.
    """

    run: RunConfig
    spec: ModelSpec
    examples: SplitExamples
    seed: int
    noise: NoiseEvent | None

    def train(
        self, *, folder: Path | None, features: Path | None, logits: Path | None = None
    ) -> tuple[OwnTeacher, bool]:
        """Train the teacher by the run's mechanism, or load it; returns it, and whether it was loaded.

        Parameters
        ----------
        folder
            Where teachers are kept; None: nowhere, so that each call trains another one.
        features, logits
            Where features of frozen encoders and logits are kept; None: nowhere.
        """
        model: TextClassifier | ShardTeachers
        if self.run.privacy.mechanism == "pate":
            model, reused = self._shards(folder, features), False
        else:
            model, reused = load_or_train_teacher(
                self.spec, self.examples, self.run.teacher, seed=self.seed, folder=folder, feature_cache=features,
                private=self._schedule,
            )  # fmt: skip
        return OwnTeacher(self.run, model, self.noise, self.examples.train.texts, self.seed, logits), reused

    @property
    def teacher_digest(self) -> str:
        """What names the teacher; under `pate`, all shards together."""
        if self.run.privacy.mechanism != "pate":
            return teacher_digest(self.spec, self.examples, self.run.teacher, self.seed, self._schedule)
        read = self._shard_settings.model_dump(exclude=UNREAD) | {"shards": self.run.privacy.shards}
        return digest_of_training(self.spec, [self.examples.train], read, self.seed)

    @property
    def release_digest(self) -> str:
        """What names the answers: the teacher, or under `pate` and `gaussian` all that determines a text's noisy row.

        What is done to a row afterwards, such as compression, and which other texts are asked with it, is not in it.
        """
        privacy = self.run.privacy
        if privacy.mechanism not in NOISY or self.noise is None:
            return self.teacher_digest
        votes = privacy.votes if privacy.mechanism == "pate" else ""
        temperature = 1.0 if votes == "labels" else self.run.teacher.temperature  # votes do not read it
        determined = [self.teacher_digest, privacy.mechanism, votes, temperature]
        return hashlib.sha256(json.dumps([*determined, self.noise.noise_multiplier]).encode()).hexdigest()

    @property
    def _schedule(self) -> PrivateSchedule | None:
        privacy = self.run.privacy
        if privacy.mechanism != "dp-sgd" or self.noise is None:
            return None
        return PrivateSchedule(
            privacy.steps, privacy.sampling_rate, privacy.clipping_norm, self.noise.noise_multiplier,
            privacy.learning_rate,
        )  # fmt: skip

    @property
    def _shard_settings(self) -> TeacherConfig:
        return self.run.teacher.model_copy(update={"epochs": self.run.privacy.epochs})

    def _shards(self, folder: Path | None, features: Path | None) -> ShardTeachers:
        return train_shards(
            self.spec, self.examples.train, self._shard_settings, shards=self.run.privacy.shards, seed=self.seed,
            folder=folder, feature_cache=features,
        )  # fmt: skip


def public_teacher(run: RunConfig, student: TextClassifier, public: Sequence[Text]) -> OwnTeacher:
    """Return the pretrained student as one more teacher: of public texts, so that no mechanism stands before it."""
    plain = run.privacy.model_copy(update={"mechanism": "none", "compression": "none"})
    return OwnTeacher(run.model_copy(update={"privacy": plain}), student, None, public, run.seed)


def as_received(answer: TeacherAnswer, privacy: PrivacyConfig) -> TeacherAnswer:
    """Return an answer as the server reads it: its soft labels compressed and brought back, its scores in float32."""
    sent = compress(answer.soft_labels, privacy.compression, top_k=privacy.top_k)
    received = decompress(sent, privacy.compression, classes=answer.soft_labels.shape[1])
    return TeacherAnswer(received, answer.scores.astype(np.float32), answer.examples)
