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
from knot_fed.types import SoftLabels, SplitExamples, Text, TrainedState


@dataclass(frozen=True, slots=True, eq=False)
class TeacherPlan:
    """Everything that determines a teacher and its answers."""

    run: RunConfig  # after the client's policy has tightened it
    spec: ModelSpec
    examples: SplitExamples
    transfer: Sequence[Text]  # the whole set, of which a request may ask a part
    seed: int  # of initial parameters, order and dropout
    noise: NoiseEvent | None  # result of `Mechanism.noise_event`; None without a guarantee
    student: TrainedState | None = None  # that teachers start from; None if it has another architecture, or none came

    @property
    def starts(self) -> list[TrainedState | None]:
        """What each of the client's teachers starts from; None: new parameters."""
        if self.student is None:
            return [None]
        return [None, self.student] if self.run.teacher.start == "both" else [self.student]


@dataclass(frozen=True, slots=True, eq=False)
class OwnTeacher:
    """A trained teacher inside its client; only the result of `Mechanism.answer` may leave."""

    run: RunConfig  # as in `TeacherPlan`
    models: Sequence[TextClassifier | None]  # one, one per start, or one per shard; None for a shard without records
    noise: NoiseEvent | None
    examples: SplitExamples  # what it was trained on and selected by
    transfer: Sequence[Text]  # as in `TeacherPlan`
    seed: int  # of the random sequences that the prediction bias is measured on
    logits: Path | None = None  # cache of logits; None disables it

    @property
    def private(self) -> Sequence[Text]:
        """Texts that it was trained on."""
        return self.examples.train.texts

    @property
    def trained(self) -> list[TextClassifier]:
        """The models, without shards that have no records."""
        return [model for model in self.models if model is not None]

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the sensitivity; raises PrivacyError if there is no noise."""
        if self.noise is None:
            raise PrivacyError(f"privacy.mechanism = {self.run.privacy.mechanism!r}: has no noise; nothing leaves")
        return self.noise.noise_multiplier

    def plain_rows(self, texts: Sequence[Text]) -> SoftLabels:
        """Return the soft labels without noise: the mean over the models, if there are several."""
        temperature = self.run.teacher.temperature
        rows = [predict_soft_labels(model, texts, temperature=temperature, kept=self.logits) for model in self.trained]
        return np.asarray(np.mean(rows, axis=0, dtype=np.float64), dtype=np.float32)

    def bias(self, *, seed: int) -> Float[np.ndarray, "classes"]:
        """Return the prediction bias at the temperature of the answers, averaged over the models; it never leaves."""
        return prediction_bias(self.trained, seed=seed, temperature=self.run.teacher.temperature)


def public_teacher(
    run: RunConfig, models: Sequence[TextClassifier], public: SplitExamples, transfer: Sequence[Text]
) -> OwnTeacher:
    """Return models trained on public examples as one more teacher, without a privacy mechanism."""
    plain = run.privacy.model_copy(update={"mechanism": NO_MECHANISM, "compression": "none"})
    return OwnTeacher(run.model_copy(update={"privacy": plain}), models, None, public, transfer, run.seed)
