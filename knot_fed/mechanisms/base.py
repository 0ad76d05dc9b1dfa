"""A privacy mechanism: how teachers are trained, what of them leaves, what that costs, and what is refused."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from knot_fed.config import MECHANISMS, MechanismFacts, PrivacyConfig, RunConfig, TeacherConfig
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
    """What stands between an owner's examples and the soft labels that leave.

    A new one is a subclass in a file of its own and an entry of `knot_fed.config.MECHANISMS`, which declares what other
    packages read of it. What is here trains one teacher without noise and lets its soft labels leave as they are.

    Parameters
    ----------
    name
        Its key in `MECHANISMS`.
    """

    name: str

    @property
    def facts(self) -> MechanismFacts:
        """What is declared of it."""
        return MECHANISMS[self.name]

    @abstractmethod
    def noise_event(
        self, privacy: PrivacyConfig, *, texts: int, asked: int, least_noise: float = 0.0
    ) -> NoiseEvent | None:
        """Work out the noise that keeps one run within its epsilon, and what this request spends of it.

        Parameters
        ----------
        privacy
            Epsilon, delta and the settings that the mechanism reads.
        texts
            In the whole transfer set; a run asks for each of them once.
        asked
            Texts of this request.
        least_noise
            Least noise multiplier, whatever the epsilon.

        Returns
        -------
        event
            None without a guarantee.

        Raises
        ------
        PrivacyError
            If epsilon or delta is out of range, or dp-accounting is not installed.
        """

    def check_installed(self) -> None:
        """Refuse, with a PrivacyError, to train where a package is missing; the accountant looks for its own."""
        return

    def check_model(self, model: TextClassifier, texts: Sequence[Text]) -> None:  # noqa: ARG002
        """Refuse, with a PrivacyError, a model that cannot be trained; reads some of these public texts only."""
        return

    def teachers(self, privacy: PrivacyConfig) -> int:  # noqa: ARG002
        """Return how many teachers one client trains."""
        return 1

    def training(self, run: RunConfig) -> TeacherConfig:
        """Return how each of them is trained."""
        return run.teacher

    def schedule(self, plan: TeacherPlan) -> PrivateSchedule | None:  # noqa: ARG002
        """Return how DP-SGD trains the teacher; None: it does not."""
        return None

    def steps(self, run: RunConfig, examples: int) -> tuple[int, int]:
        """Return the optimiser steps of all teachers on so many examples, and the examples of one step."""
        settings, teachers = self.training(run), self.teachers(run.privacy)
        each = math.ceil(examples / teachers / settings.batch_size)
        return settings.epochs * each * teachers, min(settings.batch_size, examples)

    def train(
        self, plan: TeacherPlan, *, folder: Path | None, features: Path | None, logits: Path | None = None
    ) -> tuple[OwnTeacher, bool]:
        """Train the teacher, or load it; returns it, and whether it was loaded.

        Parameters
        ----------
        plan
            All that determines it.
        folder
            Where teachers are kept; None: nowhere, so that each call trains another one.
        features, logits
            Where features of frozen encoders and logits are kept; None: nowhere.
        """
        models, reused = self._models(plan, folder, features)
        return OwnTeacher(plan.run, models, plan.noise, plan.examples.train.texts, plan.seed, logits), reused

    def _models(
        self, plan: TeacherPlan, folder: Path | None, features: Path | None
    ) -> tuple[Sequence[TextClassifier | None], bool]:
        model, reused = load_or_train_teacher(
            plan.spec, plan.examples, self.training(plan.run), seed=plan.seed, folder=folder, feature_cache=features,
            private=self.schedule(plan),
        )  # fmt: skip
        return [model], reused

    def teacher_digest(self, plan: TeacherPlan) -> str:
        """Return what names the teacher, all shards together: a digest of all that shapes it."""
        return teacher_digest(plan.spec, plan.examples, self.training(plan.run), plan.seed, self.schedule(plan))

    def release_digest(self, plan: TeacherPlan) -> str:
        """Return what names the answers: the teacher, or all that determines a text's noisy row but the text.

        What is done to a row afterwards, such as compression, and which other texts are asked with it, is not in it.
        """
        return self.teacher_digest(plan)

    def rows(self, teacher: OwnTeacher, texts: Sequence[Text]) -> SoftLabels:
        """Return one soft label for each text as it may leave, with fresh noise if noise is put on rows.

        Raises
        ------
        PrivacyError
            If there has to be noise and there is none.
        """
        return teacher.plain_rows(texts)

    def scores(
        self, teacher: OwnTeacher, soft_labels: SoftLabels, texts: Sequence[Text]
    ) -> Float[np.ndarray, "examples"]:
        """Return the score per text that the run weighs by; 0 where none is asked for or may leave."""
        return teacher_scores(
            teacher.run.weights.scheme, teacher.model, soft_labels, texts=texts, private=teacher.private,
            generator=np.random.default_rng(teacher.seed),
        )  # fmt: skip

    def answer(self, teacher: OwnTeacher, texts: Sequence[Text], *, rows: Rows | None = None) -> TeacherAnswer:
        """Answer for texts: soft labels, the score per text that the run weighs by, and the number of examples.

        Parameters
        ----------
        teacher
            That `train` returned.
        texts
            Public texts.
        rows
            Gives the soft labels in the place of `self.rows`, such as noisy ones that left before.
        """
        soft_labels = rows(texts) if rows is not None else self.rows(teacher, texts)
        examples = 0 if self.facts.has_guarantee else len(teacher.private)
        return TeacherAnswer(soft_labels, self.scores(teacher, soft_labels, texts), examples)
