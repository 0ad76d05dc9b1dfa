"""An owner's teacher, before and after its training: plain data, which a mechanism trains and answers from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from knot_fed.config import NO_MECHANISM, RunConfig
from knot_fed.errors import PrivacyError
from knot_fed.models import ModelSpec, TextClassifier
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.training.confidence import prediction_bias
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import SoftLabels, SplitExamples, Text


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
        As `Mechanism.noise_event` gives it; None without a guarantee.
    """

    run: RunConfig
    spec: ModelSpec
    examples: SplitExamples
    seed: int
    noise: NoiseEvent | None


@dataclass(frozen=True, slots=True, eq=False)
class OwnTeacher:
    """A trained teacher behind its owner's door; what leaves of it is what `Mechanism.answer` returns.

    Parameters
    ----------
    run
        The run's configuration, made as strict as the owner wants.
    models
        As the run's mechanism trained them: one, or one for each shard; None for a shard without records.
    noise
        As `Mechanism.noise_event` gives it; None without a guarantee.
    private
        The texts that it was trained on.
    seed
        Of the random sequences that its prediction bias is measured on.
    logits
        Folder where logits are kept; None: nowhere.
    """

    run: RunConfig
    models: Sequence[TextClassifier | None]
    noise: NoiseEvent | None
    private: Sequence[Text]
    seed: int
    logits: Path | None = None

    @property
    def model(self) -> TextClassifier:
        """The only model, of a mechanism that trains one."""
        (only,) = self.models
        assert only is not None
        return only

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the sensitivity.

        Raises
        ------
        PrivacyError
            If there is no noise.
        """
        if self.noise is None:
            raise PrivacyError(f"privacy.mechanism = {self.run.privacy.mechanism!r}: has no noise; nothing leaves")
        return self.noise.noise_multiplier

    def plain_rows(self, texts: Sequence[Text]) -> SoftLabels:
        """Return the soft labels of the only model, without any noise on them."""
        return predict_soft_labels(self.model, texts, temperature=self.run.teacher.temperature, kept=self.logits)

    def bias(self, *, seed: int) -> Float[np.ndarray, "classes"]:
        """Return the prediction bias, which never leaves a client; the mean over models, if there are several."""
        biases = [prediction_bias(model, generator=np.random.default_rng(seed)) for model in self.models if model]
        return np.asarray(np.mean(biases, axis=0))


def public_teacher(run: RunConfig, student: TextClassifier, public: Sequence[Text]) -> OwnTeacher:
    """Return the pretrained student as one more teacher: of public texts, so that no mechanism stands before it."""
    plain = run.privacy.model_copy(update={"mechanism": NO_MECHANISM, "compression": "none"})
    return OwnTeacher(run.model_copy(update={"privacy": plain}), [student], None, public, run.seed)
