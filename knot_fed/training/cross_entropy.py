"""Cross-entropy of labelled examples whose classes are not equally frequent."""

from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int

ClassWeights: TypeAlias = Literal["auto", "none", "balanced", "logit-adjusted"]
"""How rare classes are treated; training reads `auto` as `logit-adjusted`."""


class CrossEntropy:
    """Cross-entropy of a batch, given by its rows; made for `fit`.

    `logit-adjusted` adds the logarithm of each class's frequency to its logit inside the loss (Menon et al. 2021), so
    that the classifier itself answers as if all classes were equally frequent. Owners' answers are then comparable,
    whatever their mixes of labels are. `balanced` weighs each example by the inverse frequency of its class.

    Parameters
    ----------
    labels
        True labels of all examples.
    classes
        Number of labels.
    scheme
        As `teacher.class-weights`.
    """

    def __init__(self, labels: Int[np.ndarray, "examples"], classes: int, scheme: ClassWeights) -> None:
        adjusted = scheme in ("auto", "logit-adjusted")
        self._labels = torch.from_numpy(labels)
        self._weights = class_weights(labels, classes) if scheme == "balanced" else torch.ones(classes)
        self._log_frequencies = log_frequencies(labels, classes) if adjusted else torch.zeros(classes)

    def __call__(
        self, logits: Float[torch.Tensor, "batch classes"], rows: Int[np.ndarray, "batch"]
    ) -> Float[torch.Tensor, ""]:
        """Return the loss; differentiable in the logits."""
        device = logits.device
        labels, weights, shift = (
            part.to(device) for part in (self._labels[rows], self._weights, self._log_frequencies)
        )
        return torch.nn.functional.cross_entropy(logits.float() + shift, labels, weights)


def class_weights(labels: Int[np.ndarray, "examples"], classes: int) -> Float[torch.Tensor, "classes"]:
    """Return the inverse frequency of each class, times the mean one among the classes that occur."""
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (max(1, int((counts > 0).sum())) * np.maximum(counts, 1))
    return torch.from_numpy(weights.astype(np.float32))


def log_frequencies(labels: Int[np.ndarray, "examples"], classes: int) -> Float[torch.Tensor, "classes"]:
    """Return the logarithm of each class's frequency, one example more counted of each."""
    counts = np.bincount(labels, minlength=classes) + 1.0
    return torch.from_numpy(np.log(counts / counts.sum()).astype(np.float32))
