"""DP-SGD (Abadi et al. 2016): one teacher trained with noise, which may then answer any number of texts."""

import math
from collections.abc import Sequence

from knot_fed.config import PrivacyConfig, RunConfig
from knot_fed.mechanisms.base import Mechanism
from knot_fed.mechanisms.teachers import TeacherPlan
from knot_fed.models import TextClassifier
from knot_fed.privacy.accounting import NoiseEvent, noise_for_dp_sgd
from knot_fed.training.dp_sgd import PrivateSchedule, check_opacus, check_treatable
from knot_fed.types import Text


class DpSgd(Mechanism):
    """Noise on the sums of clipped gradients; answers and confidences are post-processing.

    Unit: one record. Neighbouring relation: add or remove one record of the training split. Sensitivity:
    `clipping-norm` for each sum. Accountant: `dp_sgd_epsilon`.
    """

    def noise_event(
        self, privacy: PrivacyConfig, *, texts: int, asked: int, trainings: int = 1, least_noise: float = 0.0  # noqa: ARG002
    ) -> NoiseEvent:  # fmt: skip
        """Spread epsilon over all trainings of the run; the number of texts does not matter."""
        steps = privacy.steps * trainings
        noise = noise_for_dp_sgd(
            epsilon=privacy.epsilon, delta=privacy.delta, sampling_rate=privacy.sampling_rate, steps=steps
        )
        return NoiseEvent(max(noise, least_noise), privacy.steps, privacy.sampling_rate)

    def check_installed(self) -> None:
        """Raise PrivacyError if Opacus is not installed."""
        check_opacus()

    def check_model(self, model: TextClassifier, texts: Sequence[Text]) -> None:
        """Raise PrivacyError if Opacus does not support a layer of the model, or it is not trained."""
        super().check_model(model, texts)
        check_treatable(model, texts)

    def schedule(self, plan: TeacherPlan) -> PrivateSchedule | None:
        """Return steps, sampling, clipping and noise."""
        if plan.noise is None:
            return None
        privacy = plan.run.privacy
        return PrivateSchedule(
            privacy.steps, privacy.sampling_rate, privacy.clipping_norm, plan.noise.noise_multiplier,
            privacy.learning_rate,
        )  # fmt: skip

    def steps(self, run: RunConfig, examples: int) -> tuple[int, int]:
        """Return the configured steps and the expected size of a Poisson sample."""
        return run.privacy.steps, math.ceil(run.privacy.sampling_rate * examples)

    def scorings(self, run: RunConfig) -> int:  # noqa: ARG002
        """Return 0: no validation split is read."""
        return 0
