"""No mechanism: soft labels leave without noise, and nothing is guaranteed."""

from knot_fed.config import PrivacyConfig
from knot_fed.mechanisms.base import Mechanism


class NoMechanism(Mechanism):
    """A teacher without a guarantee, whose soft labels, scores and number of examples leave as they are."""

    def noise_event(self, privacy: PrivacyConfig, *, texts: int, asked: int, least_noise: float = 0.0) -> None:  # noqa: ARG002
        """Return None: nothing is guaranteed."""
        return
