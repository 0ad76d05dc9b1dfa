"""PATE inside one client: teachers on disjoint shards of its records, so that one record affects one teacher."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from knot_fed.config import TeacherConfig
from knot_fed.models import ModelSpec, TextClassifier, build_classifier
from knot_fed.training.kept_teachers import NOT_OF_TRAINING, digest_of_training, load_or_train, read_settings
from knot_fed.training.teacher import predict_soft_labels, train_further
from knot_fed.types import LabelledTexts, Text

UNREAD = {*NOT_OF_TRAINING, "patience"}


@dataclass(frozen=True, slots=True, eq=False)
class ShardTeachers:
    """One teacher per shard, None for an empty one; only `noisy_votes` of their answers may leave the client."""

    models: Sequence[TextClassifier | None]
    classes: int

    def __call__(self, texts: Sequence[Text], *, temperature: float) -> Float[np.ndarray, "shards examples classes"]:
        """Return all answers; an empty shard answers with uniform rows."""
        answers = np.full((len(self.models), len(texts), self.classes), 1 / self.classes)
        for shard, model in enumerate(self.models):
            if model is not None:
                answers[shard] = predict_soft_labels(model, texts, temperature=temperature)
        return answers


def train_shards(
    spec: ModelSpec,
    train: LabelledTexts,
    settings: TeacherConfig,
    *,
    shards: int,
    seed: int,
    folder: Path | None,
    feature_cache: Path | None = None,
) -> ShardTeachers:
    """Train one teacher per shard, or load those stored in `folder` under their digests (None: store nothing).

    A hash of its text assigns each record to a shard, so that adding one moves no other. All epochs run and no
    validation split is read, since one of its records would affect all teachers.
    """
    digests = (hashlib.sha256(json.dumps(text).encode()).digest()[:8] for text in train.texts)
    places = np.array([int.from_bytes(digest) % shards for digest in digests], dtype=np.int64)
    models: list[TextClassifier | None] = []
    for shard in range(shards):
        part = train.select(np.flatnonzero(places == shard))
        fresh = partial(_trained, spec, part, settings, seed=seed, feature_cache=feature_cache)
        if not len(part):
            models.append(None)
        elif folder is None:
            models.append(fresh())
        else:
            digest = digest_of_training(spec, [part], read_settings(settings, unread=UNREAD), seed)
            models.append(load_or_train(folder / f"shard-{digest}", fresh, feature_cache=feature_cache)[0])
    return ShardTeachers(models, len(spec.labels))


def _trained(
    spec: ModelSpec, train: LabelledTexts, settings: TeacherConfig, *, seed: int, feature_cache: Path | None
) -> TextClassifier:
    teacher = build_classifier(spec, seed=seed, feature_cache=feature_cache)
    train_further(teacher, train, settings, seed=seed)
    return teacher
