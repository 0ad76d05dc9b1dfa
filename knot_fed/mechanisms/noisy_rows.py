"""Base class of the mechanisms that add Gaussian noise to each soft label."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from knot_fed.config import PrivacyConfig, RunConfig
from knot_fed.mechanisms.base import Mechanism
from knot_fed.mechanisms.teachers import OwnTeacher, TeacherPlan
from knot_fed.privacy.accounting import NoiseEvent, noise_for_gaussian
from knot_fed.types import SoftLabels, Text


class RowMechanism(Mechanism):
    """Noise on each row, composed over texts; a text that is asked again must get the same row.

    No scores leave, since they would be computed from the teacher without noise.
    """

    def noise_event(
        self, privacy: PrivacyConfig, *, texts: int, asked: int, trainings: int = 1, least_noise: float = 0.0  # noqa: ARG002
    ) -> NoiseEvent | None:  # fmt: skip
        """Spread epsilon over all answers of the run; this request spends the share of its texts."""
        noise = noise_for_gaussian(epsilon=privacy.epsilon, delta=privacy.delta, sensitivity=1.0, releases=texts)
        return NoiseEvent(max(noise, least_noise), asked)

    @abstractmethod
    def rows(self, teacher: OwnTeacher, texts: Sequence[Text]) -> SoftLabels:
        """Return one soft label per text with fresh noise."""

    @abstractmethod
    def sensitivity(self, privacy: PrivacyConfig) -> float:
        """Return the L2 sensitivity of one soft label before projection."""

    def label(self, privacy: PrivacyConfig) -> str:  # noqa: ARG002
        """Return the name, with the variant if there are several."""
        return self.name

    def row_settings(self, run: RunConfig) -> tuple[str, float]:
        """Return what shapes a row besides teacher, mechanism and noise: the kind of votes and the temperature."""
        return "", run.teacher.temperature

    def scores(
        self, teacher: OwnTeacher, soft_labels: SoftLabels, texts: Sequence[Text]  # noqa: ARG002
    ) -> Float[np.ndarray, "examples"]:  # fmt: skip
        """Return zeros."""
        return np.zeros(len(texts), dtype=np.float32)

    def release_digest(self, plan: TeacherPlan) -> str:
        """Return a digest that identifies a set of noisy rows."""
        noise = None if plan.noise is None else plan.noise.noise_multiplier
        determined = [self.teacher_digest(plan), self.name, *self.row_settings(plan.run), noise]
        return hashlib.sha256(json.dumps(determined).encode()).hexdigest()
