"""PATE within one client (Papernot et al. 2018): teachers on disjoint shards answer by noisy votes or a noisy mean."""

from collections.abc import Sequence
from pathlib import Path

from knot_fed.config import PrivacyConfig, RunConfig, TeacherConfig
from knot_fed.mechanisms.noisy_rows import RowMechanism
from knot_fed.mechanisms.teachers import OwnTeacher, TeacherPlan
from knot_fed.models import TextClassifier
from knot_fed.privacy.noise import NoiseSource
from knot_fed.privacy.row_noise import SQRT2, noisy_votes
from knot_fed.training.kept_teachers import digest_of_training, read_settings
from knot_fed.training.shards import UNREAD, ShardTeachers, train_shards
from knot_fed.types import SoftLabels, Text


class Pate(RowMechanism):
    """One teacher per shard of a client's records, and noise on their joint answer; `noisy_votes` states the guarantee.

    `train` never reports a teacher as loaded, since only some shards may have been.
    """

    def teachers(self, privacy: PrivacyConfig) -> int:
        """Return the number of shards."""
        return privacy.shards

    def training(self, run: RunConfig) -> TeacherConfig:
        """Return the teacher's settings with `privacy.epochs`, all of which are run."""
        return run.teacher.model_copy(update={"epochs": run.privacy.epochs})

    def scorings(self, run: RunConfig) -> int:  # noqa: ARG002
        """Return 0: no validation split is read."""
        return 0

    def teacher_digest(self, plan: TeacherPlan) -> str:
        """Return a digest of all shards together."""
        read = read_settings(self.training(plan.run), unread=UNREAD) | {"shards": plan.run.privacy.shards}
        return digest_of_training(plan.spec, [plan.examples.train], read, plan.seed)

    def rows(self, teacher: OwnTeacher, texts: Sequence[Text]) -> SoftLabels:
        """Return noisy votes as one-hot rows, or the noisy mean of the shards' distributions."""
        ask = ShardTeachers(teacher.models, len(teacher.run.label_space()))
        return noisy_votes(
            ask(texts, temperature=teacher.run.teacher.temperature), noise_multiplier=teacher.noise_multiplier,
            labels_only=teacher.run.privacy.votes == "labels", source=NoiseSource(),
        )  # fmt: skip

    def sensitivity(self, privacy: PrivacyConfig) -> float:
        """Return sqrt(2) for a histogram in which one vote moves, or sqrt(2) / shards for the mean distribution."""
        return SQRT2 if privacy.votes == "labels" else SQRT2 / privacy.shards

    def label(self, privacy: PrivacyConfig) -> str:
        """Return the name and the kind of votes."""
        return f"{self.name}, {privacy.votes}"

    def row_settings(self, run: RunConfig) -> tuple[str, float]:
        """Return the kind of votes, and the temperature if they depend on it."""
        votes = run.privacy.votes
        return votes, 1.0 if votes == "labels" else run.teacher.temperature

    def _models(
        self, plan: TeacherPlan, folder: Path | None, features: Path | None
    ) -> tuple[Sequence[TextClassifier | None], bool]:
        shards = train_shards(
            plan.spec, plan.examples.train, self.training(plan.run), shards=self.teachers(plan.run.privacy),
            seed=plan.seed, folder=folder, feature_cache=features,
        )  # fmt: skip
        return shards.models, False
