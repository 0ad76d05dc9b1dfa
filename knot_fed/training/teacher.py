"""Teachers: trained on one owner's examples, and asked for soft labels."""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
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
    model_identity,
    predict_logits,
    trained_state,
)
from knot_fed.privacy.noise import NoiseSource
from knot_fed.training.calibration import fit_temperature
from knot_fed.training.cross_entropy import CrossEntropy
from knot_fed.training.dp_sgd import PrivateSchedule, fit_privately
from knot_fed.training.fitting import Schedule, fit, fit_all_epochs
from knot_fed.types import LabelledTexts, SoftLabels, SplitExamples, Text

LOGITS = "logits.npy"

logger = logging.getLogger("knot_fed")


def train_teacher(
    spec: ModelSpec, examples: SplitExamples, settings: TeacherConfig, *, seed: int, feature_cache: Path | None = None
) -> TextClassifier:
    """Train a classifier by cross-entropy, stopped early by macro-F1 on the owner's own validation split.

    Where all training examples have one label there is nothing to learn, and it is a constant. With `epochs = 0` a
    ready model is returned as it was built, and no example is read.

    Parameters
    ----------
    spec
        The architecture.
    examples
        The owner's examples; its test split is not read.
    settings
        Epochs, patience, batch size, rates, class weights.
    seed
        Of initial parameters, order and dropout.
    feature_cache
        Folder for features of frozen encoders.

    Raises
    ------
    ModelError
        If the model cannot be built, training diverges, or a model that is used as it is starts from random parameters.
    """
    if not settings.epochs:
        ready = build_classifier(spec, seed=seed, feature_cache=feature_cache)
        check_ready(spec.name, ready=ready.starts_ready)
        return ready.eval()
    present = np.unique(examples.train.labels)
    if len(present) == 1:
        logger.warning(ONE_LABEL)
        return constant_classifier(spec, int(present[0]))
    model = build_classifier(spec, seed=seed, feature_cache=feature_cache)
    items = model.encode(examples.train.texts)
    val_items = model.encode(examples.val.texts)
    batch_loss = CrossEntropy(examples.train.labels, len(spec.labels), settings.class_weights)

    def macro_f1() -> float:
        predicted = predict_logits(model, val_items).argmax(axis=1)
        return float(f1_score(examples.val.labels, predicted, average="macro", zero_division=0.0))

    result = fit(model, items, batch_loss, macro_f1, _schedule(settings), seed=seed)
    _check_finite(result.train_losses, spec.name)
    return model


def train_private_teacher(
    spec: ModelSpec,
    train: LabelledTexts,
    schedule: PrivateSchedule,
    *,
    seed: int,
    source: NoiseSource,
    feature_cache: Path | None = None,
) -> TextClassifier:
    """Train a classifier by DP-SGD, as `fit_privately` describes: unit, neighbouring relation, sensitivity, accountant.

    The guarantee is that of the parameters, so it covers any number of answers. Nothing else of the owner's is read:
    no validation split chooses an epoch, and no class is weighed by how often it occurs.

    Parameters
    ----------
    spec
        The architecture.
    train
        The owner's training examples.
    schedule
        Steps, sampling rate, clipping and noise.
    seed
        Of initial parameters only.
    source
        Of sampling and noise.
    feature_cache
        Folder for features of frozen encoders.

    Raises
    ------
    PrivacyError
        If Opacus is missing or cannot treat a layer.
    """
    model = build_classifier(spec, seed=seed, feature_cache=feature_cache)
    fit_privately(model, model.encode(train.texts), train.labels, schedule, source=source)
    return model


def train_further(model: TextClassifier, train: LabelledTexts, settings: TeacherConfig, *, seed: int) -> None:
    """Train a classifier in place by the loss of `train_teacher`, for all epochs, and keep the last one's parameters.

    Parameters
    ----------
    model
        Trained from the parameters that it has.
    train
        The owner's training examples.
    settings
        Epochs, batch size, rates, class weights; patience is not read.
    seed
        Of order and dropout.

    Raises
    ------
    ModelError
        If training diverges.
    """
    batch_loss = CrossEntropy(train.labels, len(model.spec.labels), settings.class_weights)
    losses = fit_all_epochs(model, model.encode(train.texts), batch_loss, _schedule(settings), seed=seed)
    _check_finite(losses, model.spec.name)


def predict_soft_labels(
    model: TextClassifier, texts: Sequence[Text], *, temperature: float = 1.0, kept: Path | None = None
) -> SoftLabels:
    """Return `softmax(logits / temperature)` for each text, float32.

    Parameters
    ----------
    model
        A trained classifier.
    texts
        Texts of the kind (single or paired) that the model was built for.
    temperature
        > 0; above 1 flattens the distributions.
    kept
        Folder where logits are kept under a digest of parameters and texts, and found again; None: nowhere.

    Raises
    ------
    ModelError
        If single texts are given to a model of pairs, or the other way round.
    """
    if texts and isinstance(texts[0], str) == model.spec.paired:
        kinds = ("pairs", "single texts") if model.spec.paired else ("single texts", "pairs")
        raise ModelError(f"the model reads {kinds[0]}, these are {kinds[1]}; use data of the run's task")
    return _soft_labels(_kept_logits(model, texts, kept) if kept else _logits(model, texts), temperature)


def best_temperature(model: TextClassifier, examples: LabelledTexts) -> float:
    """Return the temperature at which a classifier fits examples best; those of a private owner would leak by it."""
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
    logits = _logits(model, texts)
    try:
        keep_folder(kept, lambda folder: np.save(folder / LOGITS, logits))
    except OSError as error:
        logger.warning("logits cannot be kept (%s); they are computed again next time", error.strerror)
    return logits


def _logits(model: TextClassifier, texts: Sequence[Text]) -> Float[np.ndarray, "examples classes"]:
    return predict_logits(model, model.encode(texts))


def _answer_digest(model: TextClassifier, texts: Sequence[Text]) -> str:
    digest = hashlib.sha256(json.dumps([model_identity(model.spec), texts]).encode())
    for name, value in sorted(trained_state(model).items()):
        digest.update(name.encode() + value.tobytes())
    return digest.hexdigest()


def _soft_labels(logits: Float[np.ndarray, "examples classes"], temperature: float) -> SoftLabels:
    rows: SoftLabels = softmax(logits.astype(np.float64) / temperature, axis=1).astype(np.float32)
    return rows


def _schedule(settings: TeacherConfig) -> Schedule:
    return Schedule(
        settings.epochs, settings.patience, settings.batch_size, settings.learning_rate, settings.weight_decay
    )


def _check_finite(losses: Sequence[float], model: str) -> None:
    if not np.isfinite(losses).all():
        raise ModelError(f"{model}: training diverged, the loss is not finite; lower the learning rate")
