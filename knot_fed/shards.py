"""PATE inside one client: teachers on disjoint shards of its records, which a record can change only one of."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from knot_fed.config import TeacherConfig
from knot_fed.models import ModelSpec, TextClassifier, build_classifier
from knot_fed.teacher import load_or_train, predict_soft_labels, teacher_digest, train_further
from knot_fed.types import LabelledTexts, SplitExamples, Text


def shard_answers(
    spec: ModelSpec,
    train: LabelledTexts,
    settings: TeacherConfig,
    texts: Sequence[Text],
    *,
    shards: int,
    seed: int,
    folder: Path,
    feature_cache: Path | None = None,
) -> Float[np.ndarray, "shards examples classes"]:
    """Ask one teacher for each shard; only `noisy_votes` of the answers may leave.

    Each record goes to the shard that its own text names, so that one more moves no other. All epochs are done, and no
    validation split is read, since one of its records would shape all teachers. A shard without records answers with
    flat rows.

    Parameters
    ----------
    spec, settings, seed, feature_cache
        As in `train_teacher`; patience is not read.
    train
        The owner's training examples.
    texts
        What is asked.
    shards
        Number of teachers, >= 2.
    folder
        Where they are kept, each under its digest.
    """
    answers = np.full((shards, len(texts), len(spec.labels)), 1 / len(spec.labels))
    places = _shard_of_each(train.texts, shards)
    nothing = train.select([])
    for shard in range(shards):
        part = train.select(np.flatnonzero(places == shard))
        if len(part):
            own = SplitExamples(part, nothing, nothing)
            digest = "shard-" + teacher_digest(spec, own, settings, seed)
            fresh = partial(_trained, spec, part, settings, seed=seed, feature_cache=feature_cache)
            teacher, _ = load_or_train(folder / digest, fresh, feature_cache=feature_cache)
            answers[shard] = predict_soft_labels(teacher, texts, temperature=settings.temperature)
    return answers


def _trained(
    spec: ModelSpec, train: LabelledTexts, settings: TeacherConfig, *, seed: int, feature_cache: Path | None
) -> TextClassifier:
    teacher = build_classifier(spec, seed=seed, feature_cache=feature_cache)
    train_further(teacher, train, settings, seed=seed)
    return teacher


def _shard_of_each(texts: Sequence[Text], shards: int) -> Int[np.ndarray, "examples"]:
    digests = (hashlib.sha256(json.dumps(text).encode()).digest()[:8] for text in texts)
    return np.array([int.from_bytes(digest) % shards for digest in digests], dtype=np.int64)
