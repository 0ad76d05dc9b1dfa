"""Training of a personal model on a client's own examples and on the consensus.

That public soft labels go back to the clients, which distil them, is FedMD (Li and Wang 2019, arXiv 1910.03581) and
DS-FL (Itahara et al. 2020, arXiv 2008.06180).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int

from knot_fed.config import PersonalConfig, TeacherConfig
from knot_fed.losses import Loss
from knot_fed.models import TextClassifier, device_of
from knot_fed.training.calibration import LEAST_VALIDATION
from knot_fed.training.distillation import PublicCrossEntropy
from knot_fed.training.fitting import Schedule, fit, fit_all_epochs
from knot_fed.training.teacher import calibrate, validation_score
from knot_fed.types import LabelledTexts, SoftLabels, SplitExamples, Text


class OwnCrossEntropy(PublicCrossEntropy):
    """The cross-entropy of batches of an owner's private examples, drawn with replacement."""


def train_personal(
    model: TextClassifier,
    examples: SplitExamples,
    texts: Sequence[Text],
    soft_labels: SoftLabels,
    loss: Loss,
    settings: PersonalConfig,
    teacher: TeacherConfig,
    *,
    seed: int,
) -> None:
    """Train a model on the own examples and on the consensus, in place.

    An epoch goes once over the texts of the consensus. Each step minimises the cross-entropy of as many own examples,
    drawn with replacement, plus `settings.weight` times `loss` on the batch. The epoch with the highest macro-F1 on the
    validation split is kept, the start being one of them; without `LEAST_VALIDATION` examples of two labels, the last.
    Under `teacher.calibrate` the result is calibrated on that split. The test split is never read.

    Parameters
    ----------
    soft_labels
        One distribution for each of `texts`.
    teacher
        Batch size, patience, weight decay, class weights and calibration.
    seed
        Of order, drawn examples and dropout.

    Raises
    ------
    ModelError
        If training diverges.
    """
    items = model.encode(texts)
    own = OwnCrossEntropy(model, examples.train, weight=1.0, weigh_classes=teacher.class_weights, seed=seed)
    targets = torch.from_numpy(np.array(soft_labels, dtype=np.float32))[:, None].to(device_of(model))
    ones = torch.ones(len(targets), 1, device=targets.device)

    def batch_loss(logits: torch.Tensor, rows: Int[np.ndarray, "batch"]) -> torch.Tensor:
        chosen = torch.from_numpy(rows).to(targets.device)
        return own(len(rows)) + settings.weight * loss(logits, targets[chosen], ones[chosen])

    schedule = Schedule(
        settings.epochs, teacher.patience, teacher.batch_size, settings.learning_rate, teacher.weight_decay,
        loss=f"cross-entropy plus {settings.loss}",
    )  # fmt: skip
    if selects_epoch(examples.val):
        fit(model, items, batch_loss, validation_score(model, examples.val), schedule, seed=seed)
    else:
        fit_all_epochs(model, items, batch_loss, schedule, seed=seed)
    if teacher.calibrate:
        calibrate(model, examples.val, what="personal model")


def selects_epoch(validation: LabelledTexts) -> bool:
    """Return whether a validation split is large enough to select an epoch by its macro-F1."""
    return len(validation) >= LEAST_VALIDATION and len(np.unique(validation.labels)) > 1
