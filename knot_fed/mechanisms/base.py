"""The interface of a privacy mechanism: training, noise, accounting, answers and refusals."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from knot_fed.config import MECHANISMS, MechanismFacts, PrivacyConfig, RunConfig, TeacherConfig
from knot_fed.errors import PrivacyError
from knot_fed.mechanisms.teachers import OwnTeacher, TeacherPlan
from knot_fed.models import TextClassifier
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.training.confidence import teacher_scores
from knot_fed.training.dp_sgd import PrivateSchedule
from knot_fed.training.kept_teachers import load_or_train_teacher, teacher_digest
from knot_fed.types import SoftLabels, TeacherAnswer, Text

Rows: TypeAlias = Callable[[Sequence[Text]], SoftLabels]


@dataclass(frozen=True, slots=True)
class Mechanism(ABC):
    """Base class of privacy mechanisms; its defaults train one teacher without noise and release its soft labels.

    A new mechanism is a subclass in its own file and an entry of `knot_fed.config.MECHANISMS` under `name`.
    """

    name: str

    @property
    def facts(self) -> MechanismFacts:
        """The registry entry."""
        return MECHANISMS[self.name]

    @abstractmethod
    def noise_event(
        self, privacy: PrivacyConfig, *, texts: int, asked: int, trainings: int = 1, least_noise: float = 0.0
    ) -> NoiseEvent | None:
        """Compute the noise that keeps one run within its epsilon, and what this request spends, or None.

        Parameters
        ----------
        texts, asked
            Answers that a run asks for, each counted once for each teacher, and texts in this request.
        trainings
            Teachers that a run trains one after another, with this request's.
        least_noise
            Lower bound on the noise multiplier.

        Raises
        ------
        PrivacyError
            If epsilon or delta is out of range, or dp-accounting is not installed.
        """

    def check_installed(self) -> None:
        """Raise PrivacyError if a package needed for training is missing."""
        return

    def check_model(self, model: TextClassifier, texts: Sequence[Text]) -> None:  # noqa: ARG002
        """Raise PrivacyError if the mechanism cannot train the model; reads some of these public texts only."""
        if "epochs" in self.facts.reads and not model.trains:
            raise PrivacyError(
                f"{model.spec.name}: reads no private example, so privacy.mechanism = {self.name!r} has nothing to"
                " train with noise; use another mechanism, or a teacher that is trained"
            )

    def teachers(self, privacy: PrivacyConfig) -> int:  # noqa: ARG002
        """Return how many teachers one client trains."""
        return 1

    def training(self, run: RunConfig) -> TeacherConfig:
        """Return the training settings of each teacher."""
        return run.teacher

    def schedule(self, plan: TeacherPlan) -> PrivateSchedule | None:  # noqa: ARG002
        """Return the schedule of DP-SGD, or None for training without noise."""
        return None

    def steps(self, run: RunConfig, examples: int) -> tuple[int, int]:
        """Return the optimiser steps of all teachers on `examples` examples, and the examples in one step."""
        settings, teachers = self.training(run), self.teachers(run.privacy)
        each = math.ceil(examples / teachers / settings.batch_size)
        return settings.epochs_of_round * each * teachers, min(settings.batch_size, examples)

    def scorings(self, run: RunConfig) -> int:
        """Return how often the validation split is scored, at most: before the first epoch and after each."""
        settings = self.training(run)
        return settings.epochs_of_round + (2 if settings.start == "both" else 1)

    def train(
        self, plan: TeacherPlan, *, folder: Path | None, features: Path | None, logits: Path | None = None
    ) -> tuple[OwnTeacher, bool]:
        """Train the teacher or load it; return it with True if it was loaded.

        `folder` stores teachers; None trains a new one on each call. `features` and `logits` are caches of features of
        frozen encoders and of logits; None disables them.
        """
        models, reused = self._models(plan, folder, features)
        return OwnTeacher(plan.run, models, plan.noise, plan.examples, plan.transfer, plan.seed, logits), reused

    def _models(
        self, plan: TeacherPlan, folder: Path | None, features: Path | None
    ) -> tuple[Sequence[TextClassifier | None], bool]:
        schedule = self.schedule(plan)
        trained = [
            load_or_train_teacher(
                plan.spec, plan.examples, self.training(plan.run), seed=plan.seed, feature_cache=features,
                folder=folder if start is None or schedule else None, private=schedule, start=start,
            )
            for start in plan.starts
        ]  # fmt: skip
        return [model for model, _ in trained], all(reused for _, reused in trained)

    def teacher_digest(self, plan: TeacherPlan) -> str:
        """Return a digest of everything that shapes the teacher, all starts or shards together."""
        settings, schedule = self.training(plan.run), self.schedule(plan)
        digests = [
            teacher_digest(plan.spec, plan.examples, settings, plan.seed, schedule, start) for start in plan.starts
        ]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def release_digest(self, plan: TeacherPlan) -> str:
        """Return a digest of everything except the text that determines an answer, before post-processing."""
        return self.teacher_digest(plan)

    def rows(self, teacher: OwnTeacher, texts: Sequence[Text]) -> SoftLabels:
        """Return one soft label per text, with fresh noise if the mechanism adds noise to rows.

        Raises PrivacyError if the mechanism needs noise and the teacher has none.
        """
        return teacher.plain_rows(texts)

    def scores(
        self, teacher: OwnTeacher, soft_labels: SoftLabels, texts: Sequence[Text]
    ) -> Float[np.ndarray, "examples"]:
        """Return the score per text that the run weighs by; 0 if none is needed or allowed to leave."""
        return teacher_scores(
            teacher.run.weights.scheme, teacher.trained, soft_labels, texts=texts, transfer=teacher.transfer,
            examples=teacher.examples, seed=teacher.seed, temperature=teacher.run.teacher.temperature,
        )  # fmt: skip

    def answer(self, teacher: OwnTeacher, texts: Sequence[Text], *, rows: Rows | None = None) -> TeacherAnswer:
        """Return soft labels and scores for public texts, and the number of private examples.

        `rows` replaces `self.rows`, for example to repeat noisy rows that left before.
        """
        soft_labels = rows(texts) if rows is not None else self.rows(teacher, texts)
        examples = 0 if self.facts.has_guarantee else len(teacher.private)
        return TeacherAnswer(soft_labels, self.scores(teacher, soft_labels, texts), examples)
