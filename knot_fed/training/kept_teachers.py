"""Teachers in an owner's state folder: each under a digest of all that shaped it, trained once, checked when loaded."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from knot_fed.config import TeacherConfig
from knot_fed.errors import DamagedError, KnotError, ModelError, PrivacyError, writing_failed
from knot_fed.files import check_folder, keep_folder
from knot_fed.models import ModelSpec, TextClassifier, load_classifier, model_identity, save_classifier
from knot_fed.privacy.noise import NoiseSource
from knot_fed.training.dp_sgd import PrivateSchedule
from knot_fed.training.teacher import train_private_teacher, train_teacher
from knot_fed.types import LabelledTexts, SplitExamples

Train = Callable[[], TextClassifier]
NOT_OF_TRAINING = {"models", "temperature", "max_length"}
"""Settings that training does not read; the longest text is part of the specification."""

logger = logging.getLogger("knot_fed")


def load_or_train_teacher(
    spec: ModelSpec,
    examples: SplitExamples,
    settings: TeacherConfig,
    *,
    seed: int,
    folder: Path | None,
    feature_cache: Path | None = None,
    private: PrivateSchedule | None = None,
) -> tuple[TextClassifier, bool]:
    """Load the teacher that this data, model, training settings and seed gave before, or train it.

    Parameters
    ----------
    spec, examples, settings, seed, feature_cache
        As in `train_teacher`.
    folder
        Where teachers are kept, each under its digest; None: nowhere. A ready model (`epochs = 0`) is not copied there.
    private
        How DP-SGD trains it; None: without a guarantee, by `train_teacher`.

    Returns
    -------
    teacher
        The trained classifier.
    reused
        Whether it was loaded.

    Raises
    ------
    PrivacyError
        If a kept DP-SGD teacher is damaged: another one would be another release.
    """

    def train() -> TextClassifier:
        if private is None:
            return train_teacher(spec, examples, settings, seed=seed, feature_cache=feature_cache)
        return train_private_teacher(
            spec, examples.train, private, seed=seed, source=NoiseSource(), feature_cache=feature_cache
        )

    if folder is None or not settings.epochs:
        return train(), False
    kept = folder / teacher_digest(spec, examples, settings, seed, private)
    return load_or_train(kept, train, feature_cache=feature_cache, heal=private is None)


def check_kept_release(kept: Path) -> None:
    """Refuse to continue with a damaged noisy release, which is never drawn again; one that is not there is fine.

    Raises
    ------
    PrivacyError
        If a file of it is not as it was written.
    """
    try:
        if kept.is_dir():
            check_folder(kept)
    except DamagedError as error:
        raise _lost_release(kept, error) from None


def _lost_release(kept: Path, error: KnotError) -> PrivacyError:
    return PrivacyError(
        f"a kept noisy release is damaged ({error}) and is not drawn again; restore {kept} from a backup, or remove"
        " that folder: the next request then makes another release, which costs its epsilon anew",
        refusal="a kept noisy release of this client is damaged, and its owner finds the remedy in its own log",
    )


def load_or_train(
    kept: Path, train: Train, *, feature_cache: Path | None = None, heal: bool = True
) -> tuple[TextClassifier, bool]:
    """Load the classifier in a folder, or train it and keep it there; returns it, and whether it was loaded.

    Where another process has kept one meanwhile, that one is returned, so that no two of one name are asked.

    Parameters
    ----------
    kept
        The folder.
    train
        Trains the classifier.
    feature_cache
        Folder for features of frozen encoders.
    heal
        Whether a damaged one is trained again; not a noisy one, since another one would be another release.

    Raises
    ------
    PrivacyError
        If a noisy one is damaged, or cannot be loaded.
    ModelError
        If the disk is full, for example.
    """
    if kept.is_dir():
        try:
            check_folder(kept)
            return load_classifier(kept, feature_cache=feature_cache), True
        except (DamagedError, ModelError) as error:
            if not heal:
                raise _lost_release(kept, error) from None
            logger.warning("a kept teacher is damaged (%s); it is trained again", error)
            shutil.rmtree(kept, ignore_errors=True)
    teacher = train()
    try:
        made = keep_folder(kept, partial(save_classifier, teacher))
    except OSError as error:
        raise ModelError(f"a teacher cannot be kept in state-dir: {writing_failed(error)}") from None
    return (teacher if made else load_classifier(kept, feature_cache=feature_cache)), not made


def teacher_digest(
    spec: ModelSpec, examples: SplitExamples, settings: TeacherConfig, seed: int, private: PrivateSchedule | None = None
) -> str:
    """Return what names a teacher: a digest of all that shapes it, and of no setting that training does not read."""
    if private is not None:
        return digest_of_training(spec, [examples.train], {"dp-sgd": asdict(private)}, seed)
    if not settings.epochs:
        return digest_of_training(spec, [], {"epochs": 0}, seed)
    return digest_of_training(spec, [examples.train, examples.val], settings.model_dump(exclude=NOT_OF_TRAINING), seed)


def digest_of_training(
    spec: ModelSpec, parts: Sequence[LabelledTexts], settings: Mapping[str, object], seed: int
) -> str:
    """Return the digest of a specification, the examples that are read, the settings that are read, and a seed."""
    digest = hashlib.sha256()
    digest.update(json.dumps([model_identity(spec), settings, seed], sort_keys=True).encode())
    for part in parts:
        digest.update(json.dumps([part.texts, part.labels.tolist()]).encode())
    return digest.hexdigest()
