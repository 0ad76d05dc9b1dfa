"""A client's teacher before and after training: plain data that a mechanism trains and answers from."""

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
    """Everything that determines a teacher and its answers."""

    run: RunConfig  # after the client's policy has tightened it
    spec: ModelSpec
    examples: SplitExamples
    seed: int  # of initial parameters, order and dropout
    noise: NoiseEvent | None  # result of `Mechanism.noise_event`; None without a guarantee


@dataclass(frozen=True, slots=True, eq=False)
class OwnTeacher:
    """A trained teacher inside its client; only the result of `Mechanism.answer` may leave."""

    run: RunConfig  # as in `TeacherPlan`
    models: Sequence[TextClassifier | None]  # one, or one per shard; None for a shard without records
    noise: NoiseEvent | None
    examples: SplitExamples  # what it was trained on and selected by
    seed: int  # of the random sequences that the prediction bias is measured on
    logits: Path | None = None  # cache of logits; None disables it

    @property
    def private(self) -> Sequence[Text]:
        """Texts that it was trained on."""
        return self.examples.train.texts

    @property
    def model(self) -> TextClassifier:
        """The model of a mechanism that trains only one."""
        (only,) = self.models
        assert only is not None
        return only

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the sensitivity; raises PrivacyError if there is no noise."""
        if self.noise is None:
            raise PrivacyError(f"privacy.mechanism = {self.run.privacy.mechanism!r}: has no noise; nothing leaves")
        return self.noise.noise_multiplier

    def plain_rows(self, texts: Sequence[Text]) -> SoftLabels:
        """Return the soft labels of the only model, without noise."""
        return predict_soft_labels(self.model, texts, temperature=self.run.teacher.temperature, kept=self.logits)

    def bias(self, *, seed: int) -> Float[np.ndarray, "classes"]:
        """Return the prediction bias, averaged over the models; it never leaves a client."""
        biases = [prediction_bias(model, generator=np.random.default_rng(seed)) for model in self.models if model]
        return np.asarray(np.mean(biases, axis=0))


def public_teacher(run: RunConfig, student: TextClassifier, public: SplitExamples) -> OwnTeacher:
    """Return the student, pretrained on public examples, as one more teacher without a privacy mechanism."""
    plain = run.privacy.model_copy(update={"mechanism": NO_MECHANISM, "compression": "none"})
    return OwnTeacher(run.model_copy(update={"privacy": plain}), [student], None, public, run.seed)
