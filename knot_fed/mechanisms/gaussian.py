"""Gaussian noise on each soft label: a guarantee for all records of a client together."""

from collections.abc import Sequence

from knot_fed.config import PrivacyConfig
from knot_fed.mechanisms.noisy_rows import RowMechanism
from knot_fed.mechanisms.teachers import OwnTeacher
from knot_fed.privacy.noise import NoiseSource
from knot_fed.privacy.row_noise import SQRT2, noisy_soft_labels
from knot_fed.types import SoftLabels, Text


class GaussianRows(RowMechanism):
    """One teacher trained without noise, and noise on its soft labels; `noisy_soft_labels` states the guarantee."""

    def rows(self, teacher: OwnTeacher, texts: Sequence[Text]) -> SoftLabels:
        """Return the teacher's soft labels with fresh noise, projected onto the simplex."""
        return noisy_soft_labels(
            teacher.plain_rows(texts), noise_multiplier=teacher.noise_multiplier, source=NoiseSource()
        )

    def sensitivity(self, privacy: PrivacyConfig) -> float:  # noqa: ARG002
        """Return sqrt(2), the largest L2 distance between two distributions."""
        return SQRT2
