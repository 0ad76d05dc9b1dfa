"""Teachers in a client's state folder, each under a digest of everything that determines it; checked when loaded."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict
from functools import partial
from pathlib import Path

from knot_fed.config import TeacherConfig
from knot_fed.errors import DamagedError, KnotError, ModelError, PrivacyError, writing_failed
from knot_fed.files import check_folder, keep_folder
from knot_fed.models import (
    ModelSpec,
    TextClassifier,
    is_prompted,
    load_classifier,
    model_identity,
    save_classifier,
)
from knot_fed.privacy.noise import NoiseSource
from knot_fed.training.calibration import LEAST_VALIDATION
from knot_fed.training.dp_sgd import PrivateSchedule
from knot_fed.training.teacher import train_private_teacher, train_teacher
from knot_fed.types import LabelledTexts, SplitExamples, TrainedState

Train = Callable[[], TextClassifier]
NOT_OF_TRAINING = {"models", "temperature", "max_length", "start", "round_epochs"}
"""Settings that training does not read; `max_length` is part of the specification."""

OF_0_1 = {"epochs", "patience", "batch_size", "learning_rate", "weight_decay", "class_weights"}
"""Settings of training in version 0.1."""

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
    start: TrainedState | None = None,
) -> tuple[TextClassifier, bool]:
    """Load the teacher of this data, model, settings, start and seed, or train it; return it and whether it was loaded.

    Parameters
    ----------
    folder
        Where teachers are stored; None: nowhere. A ready model (`epochs = 0`) and a prompted one are never stored.
    private
        Schedule of DP-SGD; None: `train_teacher`, without a guarantee.
    start
        Parameters that it starts from, the student's; None: new ones.

    Raises
    ------
    PrivacyError
        If a stored DP-SGD teacher is damaged: training another one would be another release.
    """

    def train() -> TextClassifier:
        if private is None:
            return train_teacher(spec, examples, settings, seed=seed, feature_cache=feature_cache, start=start)
        return train_private_teacher(
            spec, examples.train, private, seed=seed, source=NoiseSource(), feature_cache=feature_cache, start=start
        )

    if folder is None or not settings.epochs or is_prompted(spec.name):
        return train(), False
    kept = folder / teacher_digest(spec, examples, settings, seed, private, start)
    return load_or_train(kept, train, feature_cache=feature_cache, heal=private is None)


def check_kept_release(kept: Path) -> None:
    """Raise PrivacyError if a stored noisy release is damaged, since it is never drawn again; it may be absent."""
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
    kept: Path, train: Train, *, feature_cache: Path | None = None, heal: bool = True, what: str = "teacher"
) -> tuple[TextClassifier, bool]:
    """Load the classifier in the folder `kept`, or train and store it; return it, and whether it was loaded.

    If another process has stored one meanwhile, that one is returned, so that all answers come from one teacher.

    Parameters
    ----------
    heal
        Whether to retrain a damaged classifier; False for a noisy one, since another one would be another release.
    what
        What it is, in messages.

    Raises
    ------
    PrivacyError
        If a noisy one is damaged, or cannot be loaded.
    ModelError
        If it cannot be written, e.g. if the disk is full.
    """
    if kept.is_dir():
        try:
            check_folder(kept)
            return load_classifier(kept, feature_cache=feature_cache), True
        except (DamagedError, ModelError) as error:
            if not heal:
                raise _lost_release(kept, error) from None
            logger.warning("a kept %s is damaged (%s); it is trained again", what, error)
            shutil.rmtree(kept, ignore_errors=True)
    teacher = train()
    try:
        made = keep_folder(kept, partial(save_classifier, teacher))
    except OSError as error:
        raise ModelError(f"a {what} cannot be kept in state-dir: {writing_failed(error)}") from None
    return (teacher if made else load_classifier(kept, feature_cache=feature_cache)), not made


def teacher_digest(
    spec: ModelSpec,
    examples: SplitExamples,
    settings: TeacherConfig,
    seed: int,
    private: PrivateSchedule | None = None,
    start: TrainedState | None = None,
) -> str:
    """Return a digest of everything that determines a teacher, and of nothing that its training does not read."""
    started: dict[str, object] = {} if start is None else {"start": _digest_of_state(start)}
    if private is not None:
        return digest_of_training(spec, [examples.train], {"dp-sgd": asdict(private)} | started, seed)
    if not settings.epochs or is_prompted(spec.name):
        return digest_of_training(spec, [], {"epochs": 0}, seed)
    if start is not None:
        started |= {"epochs": settings.epochs_from_student}
    return digest_of_training(spec, [examples.train, examples.val], read_settings(settings) | started, seed)


def read_settings(settings: TeacherConfig, *, unread: Set[str] = NOT_OF_TRAINING) -> dict[str, object]:
    """Return the settings that training reads; later ones than those of version 0.1 only where they are no defaults.

    Teachers and noisy rows that version 0.1 has kept are so found again, and cost nothing new.
    """
    defaults = TeacherConfig().model_dump()
    given = settings.model_dump(exclude={*unread})
    if settings.calibrate and "calibrate" in given:
        given["calibrate"] = (
            LEAST_VALIDATION  # a teacher that was calibrated on fewer examples is not taken for this one
        )
    return {key: value for key, value in given.items() if key in OF_0_1 or value != defaults[key]}


def _digest_of_state(state: TrainedState) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.tobytes())
    return digest.hexdigest()


def digest_of_training(
    spec: ModelSpec, parts: Sequence[LabelledTexts], settings: Mapping[str, object], seed: int
) -> str:
    """Return the digest of a specification, and of the examples, settings and seed that training reads."""
    digest = hashlib.sha256(json.dumps([model_identity(spec), settings, seed], sort_keys=True).encode())
    for part in parts:
        digest.update(json.dumps([part.texts, part.labels.tolist()]).encode())
    return digest.hexdigest()
