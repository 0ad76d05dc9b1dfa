"""Cross-entropy of labelled examples with imbalanced classes."""

from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int

from knot_fed.models.device import send

ClassWeights: TypeAlias = Literal["auto", "none", "balanced", "logit-adjusted"]
"""Treatment of rare classes; `auto` means `logit-adjusted` here."""


class CrossEntropy:
    """Cross-entropy of a batch, given by its rows in `labels`, for `fit`; `scheme` is `teacher.class-weights`.

    `logit-adjusted` adds the log frequency of each class to its logit inside the loss (Menon et al. 2021), so that the
    classifier predicts as if classes were balanced; answers of clients with different label mixes are then comparable.
    `balanced` weights examples by the inverse frequency of their class. `smoothing` is the share of a label's mass that
    is spread over all labels (Szegedy et al. 2016, arXiv 1512.00567), after the logits are adjusted.
    """

    def __init__(
        self, labels: Int[np.ndarray, "examples"], classes: int, scheme: ClassWeights, *, smoothing: float = 0.0
    ) -> None:
        self._labels, self._smoothing = torch.from_numpy(labels), smoothing
        self._weights, self._log_frequencies = torch.ones(classes), torch.zeros(classes)
        if scheme == "balanced":
            self._weights = class_weights(labels, classes)
        elif scheme != "none":
            smoothed = np.bincount(labels, minlength=classes) + 1.0  # absent classes have a logarithm, too
            self._log_frequencies = torch.from_numpy(np.log(smoothed / smoothed.sum()).astype(np.float32))

    def __call__(
        self, logits: Float[torch.Tensor, "batch classes"], rows: Int[np.ndarray, "batch"]
    ) -> Float[torch.Tensor, ""]:
        """Return the loss; differentiable in the logits."""
        if self._labels.device != logits.device:
            self._labels, self._weights, self._log_frequencies = (
                part.to(logits.device) for part in (self._labels, self._weights, self._log_frequencies)
            )
        labels = self._labels[send(torch.from_numpy(rows), logits.device)]
        adjusted = logits.float() + self._log_frequencies
        return torch.nn.functional.cross_entropy(adjusted, labels, self._weights, label_smoothing=self._smoothing)


def class_weights(labels: Int[np.ndarray, "examples"], classes: int) -> Float[torch.Tensor, "classes"]:
    """Return the mean count of the classes that occur, over each class's own count."""
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (max(1, int((counts > 0).sum())) * np.maximum(counts, 1))
    return torch.from_numpy(weights.astype(np.float32))
