"""Text classifiers: n-gram bags, transformers from scratch or pretrained, and heads on frozen encoders."""

from knot_fed.models.constant import ONE_LABEL
from knot_fed.models.cross_entropy import ClassWeights, CrossEntropy
from knot_fed.models.fitting import (
    BatchLoss,
    Fit,
    FitState,
    Schedule,
    fit,
    fit_all_epochs,
    predict_logits,
    use_threads,
)
from knot_fed.models.head import encoder_identity
from knot_fed.models.private_fitting import PrivateSchedule, check_opacus, check_treatable, fit_privately
from knot_fed.models.storage import (
    ARCHITECTURES,
    build_classifier,
    check_model_name,
    constant_classifier,
    load_classifier,
    load_trained_state,
    model_identity,
    needs_permission,
    save_classifier,
    trained_state,
)
from knot_fed.models.text_classifier import Item, ModelSpec, TextClassifier
from knot_fed.models.transformer import TINY_BERT_POSITIONS, train_vocabulary
from knot_fed.models.trial import Trial, try_model

__all__ = [
    "ARCHITECTURES",
    "ONE_LABEL",
    "TINY_BERT_POSITIONS",
    "BatchLoss",
    "ClassWeights",
    "CrossEntropy",
    "Fit",
    "FitState",
    "Item",
    "ModelSpec",
    "PrivateSchedule",
    "Schedule",
    "TextClassifier",
    "Trial",
    "build_classifier",
    "check_model_name",
    "check_opacus",
    "check_treatable",
    "constant_classifier",
    "encoder_identity",
    "fit",
    "fit_all_epochs",
    "fit_privately",
    "load_classifier",
    "load_trained_state",
    "model_identity",
    "needs_permission",
    "predict_logits",
    "save_classifier",
    "train_vocabulary",
    "trained_state",
    "try_model",
    "use_threads",
]
