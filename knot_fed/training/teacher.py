"""Training of teachers on a client's private examples, and their soft labels."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.special import softmax
from sklearn.metrics import f1_score

from knot_fed.config import TeacherConfig
from knot_fed.errors import DamagedError, ModelError
from knot_fed.files import check_folder, keep_folder
from knot_fed.models import (
    ONE_LABEL,
    ModelSpec,
    TextClassifier,
    build_classifier,
    check_ready,
    constant_classifier,
    is_prompted,
    load_trained_state,
    model_identity,
    predict_logits,
    trained_state,
)
from knot_fed.privacy.noise import NoiseSource
from knot_fed.training.calibration import LEAST_TEMPERATURE, LEAST_VALIDATION, fit_temperature
from knot_fed.training.cross_entropy import CrossEntropy
from knot_fed.training.dp_sgd import PrivateSchedule, fit_privately
from knot_fed.training.fitting import Schedule, fit, fit_all_epochs
from knot_fed.types import LabelledTexts, SoftLabels, SplitExamples, Text, TrainedState

LOGITS = "logits.npy"
TEXTS_AT_ONCE = 1 << 13

logger = logging.getLogger("knot_fed")


def train_teacher(
    spec: ModelSpec,
    examples: SplitExamples,
    settings: TeacherConfig,
    *,
    seed: int,
    feature_cache: Path | None = None,
    start: TrainedState | None = None,
) -> TextClassifier:
    """Train a classifier by cross-entropy, with early stopping by macro-F1 on the validation split.

    If all training examples have one label, a teacher with new parameters is a constant, and is not calibrated. With
    `epochs = 0` a ready model is returned as built, as a prompted one always is, and no example is read. The test split
    is never read.

    Parameters
    ----------
    seed
        Of initial parameters, order and dropout.
    feature_cache
        Folder for features of frozen encoders.
    start
        Parameters that it starts from, for `round_epochs`, and that stay if no epoch is better; None: new ones.

    Raises
    ------
    ModelError
        If the model cannot be built, training diverges, or `epochs = 0` meets a model with random parameters.
    """
    if not settings.epochs or is_prompted(spec.name):
        ready = build_classifier(spec, seed=seed, feature_cache=feature_cache)
        check_ready(spec.name, ready=ready.starts_ready)
        return ready.eval()
    present = np.unique(examples.train.labels)
    if len(present) == 1 and start is None:
        logger.warning(ONE_LABEL)
        return constant_classifier(spec, int(present[0]))
    model = build_classifier(spec, seed=seed, feature_cache=feature_cache)
    if start is not None:
        load_trained_state(model, start)
        settings = settings.model_copy(update={"epochs": settings.epochs_from_student})
    batch_loss = CrossEntropy(
        examples.train.labels, len(spec.labels), settings.class_weights, smoothing=settings.label_smoothing
    )
    score = validation_score(model, examples.val)
    fit(model, model.encode(examples.train.texts), batch_loss, score, _schedule(settings), seed=seed)
    if settings.calibrate:
        calibrate(model, examples.val)
    return model


def validation_score(model: TextClassifier, validation: LabelledTexts) -> Callable[[], float]:
    """Return a function that computes the model's current macro-F1 on a validation split, encoded once."""
    items = model.encode(validation.texts)

    def macro_f1() -> float:
        predicted = predict_logits(model, items).argmax(axis=1)
        return float(f1_score(validation.labels, predicted, average="macro", zero_division=0.0))

    return macro_f1


def calibrate(model: TextClassifier, validation: LabelledTexts, *, what: str = "teacher") -> None:
    """Divide a model's logits by the temperature that fits its own validation split best, as part of its parameters.

    The model is left unchanged if the split has fewer than `LEAST_VALIDATION` examples, where one mistake more or less
    decides, and if it is right on the whole split, since no temperature fits best then. `what` names it in log lines.
    """
    if len(validation) < LEAST_VALIDATION:
        logger.info("a %s has fewer than %d validation examples, so it is not calibrated", what, LEAST_VALIDATION)
        return
    temperature = best_temperature(model, validation)
    if temperature < 1.01 * LEAST_TEMPERATURE:
        logger.warning("a %s is right on its whole validation split, so it is not calibrated", what)
    elif not model.divide_logits(temperature):
        logger.warning("%s: its output layer is not known, so the %s is not calibrated", model.spec.name, what)


def train_private_teacher(
    spec: ModelSpec,
    train: LabelledTexts,
    schedule: PrivateSchedule,
    *,
    seed: int,
    source: NoiseSource,
    feature_cache: Path | None = None,
    start: TrainedState | None = None,
) -> TextClassifier:
    """Train a classifier by `fit_privately`, which states unit, neighbouring relation, sensitivity and accountant.

    The guarantee is that of the parameters and covers any number of answers. No validation split selects an epoch, and
    no class is weighted by its frequency, since both would read more private data. The seed is that of the initial
    parameters only; sampling and noise come from `source`.

    Raises
    ------
    PrivacyError
        If Opacus is missing or does not support a layer.
    """
    model = build_classifier(spec, seed=seed, feature_cache=feature_cache)
    if start is not None:
        load_trained_state(model, start)
    fit_privately(model, model.encode(train.texts), train.labels, schedule, source=source)
    return model


def train_further(model: TextClassifier, train: LabelledTexts, settings: TeacherConfig, *, seed: int) -> None:
    """Continue training in place with the loss of `train_teacher`, for all epochs; the last parameters stay.

    Patience is not read. Raises ModelError if training diverges.
    """
    batch_loss = CrossEntropy(
        train.labels, len(model.spec.labels), settings.class_weights, smoothing=settings.label_smoothing
    )
    fit_all_epochs(model, model.encode(train.texts), batch_loss, _schedule(settings), seed=seed)


def predict_soft_labels(
    model: TextClassifier, texts: Sequence[Text], *, temperature: float = 1.0, kept: Path | None = None
) -> SoftLabels:
    """Return `softmax(logits / temperature)` for each text, float32.

    Parameters
    ----------
    texts
        Single texts or pairs, as the model was built for.
    temperature
        > 0; above 1 flattens the distributions. A constant is not sharpened: the mass that it spreads is fixed.
    kept
        Folder that caches logits under a digest of parameters and texts; None: no cache.

    Raises
    ------
    ModelError
        If single texts are given to a model of pairs, or vice versa.
    """
    if texts and isinstance(texts[0], str) == model.spec.paired:
        kinds = ("pairs", "single texts") if model.spec.paired else ("single texts", "pairs")
        raise ModelError(f"the model reads {kinds[0]}, these are {kinds[1]}; use data of the run's task")
    logits = _kept_logits(model, texts, kept) if kept else predict_logits(model, model.encode(texts))
    divisor = max(temperature, model.least_temperature)
    rows: SoftLabels = softmax(logits.astype(np.float64) / divisor, axis=1).astype(np.float32)
    return rows


def best_temperature(model: TextClassifier, examples: LabelledTexts) -> float:
    """Return the temperature at which a classifier fits examples best; it reveals something of them."""
    return fit_temperature(predict_soft_labels(model, examples.texts), examples.labels)


def _kept_logits(model: TextClassifier, texts: Sequence[Text], folder: Path) -> Float[np.ndarray, "examples classes"]:
    kept = folder / _answer_digest(model, texts)
    if kept.is_dir():
        try:
            check_folder(kept)
            found: Float[np.ndarray, "examples classes"] = np.load(kept / LOGITS, allow_pickle=False)
            return found
        except (DamagedError, OSError, ValueError) as error:
            logger.warning("kept logits are damaged (%s); they are computed again", error)
            shutil.rmtree(kept, ignore_errors=True)
    logits = predict_logits(model, model.encode(texts))
    try:
        keep_folder(kept, lambda folder: np.save(folder / LOGITS, logits))
    except OSError as error:
        logger.warning("logits cannot be kept (%s); they are computed again next time", error.strerror)
    return logits


def _answer_digest(model: TextClassifier, texts: Sequence[Text]) -> str:
    digest = hashlib.sha256(f"[{json.dumps(model_identity(model.spec))}, [".encode())
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        digest.update(
            (", " if start else "").encode() + json.dumps(texts[start : start + TEXTS_AT_ONCE])[1:-1].encode()
        )
    digest.update(b"]]")
    for name, value in sorted(trained_state(model).items()):
        digest.update(name.encode() + value.tobytes())
    return digest.hexdigest()


def _schedule(settings: TeacherConfig) -> Schedule:
    return Schedule.of(settings, weight_decay=settings.weight_decay)
