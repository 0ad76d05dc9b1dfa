"""No mechanism: soft labels leave without noise and without a guarantee."""

from knot_fed.config import PrivacyConfig
from knot_fed.mechanisms.base import Mechanism


class NoMechanism(Mechanism):
    """Releases soft labels, scores and the number of examples unchanged."""

    def noise_event(
        self, privacy: PrivacyConfig, *, texts: int, asked: int, trainings: int = 1, least_noise: float = 0.0  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Return None: there is no guarantee."""
        return
