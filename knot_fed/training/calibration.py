"""Temperature scaling of soft labels: one number divides all logits, which keeps their ranks (Guo et al. 2017)."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from knot_fed.types import SoftLabels

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0
"""Range of the search: a classifier that is always right would be sharpened without limit."""
SMALLEST_PROBABILITY = 1e-30
LEAST_VALIDATION = 20
"""Validation examples from which a teacher's temperature is fitted, and the epoch of a personal model chosen."""


def temper(soft_labels: SoftLabels, temperature: float) -> SoftLabels:
    """Return `softmax(logits / temperature)` from `softmax(logits)`: each row to the power `1 / temperature`.

    Probabilities are clamped to 1e-30. A temperature above 1 flattens the distributions.

    Examples
    --------
    >>> temper(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()
    [[0.667, 0.333]]
    """
    rows: SoftLabels = softmax(_logits(soft_labels) / temperature, axis=1)
    return rows


def negative_log_likelihood(
    soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"], *, temperature: float = 1.0
) -> float:
    """Return the mean of `-ln p` of the true labels, in nats, after temperature scaling."""
    scaled = log_softmax(_logits(soft_labels) / temperature, axis=1)
    return -float(scaled[np.arange(len(labels)), labels].mean())


def fit_temperature(soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"]) -> float:
    """Return the temperature in [0.05, 20] of the lowest negative log-likelihood of the true labels.

    The likelihood is concave in the inverse temperature, so it has one maximum. Without labels, the result is 1.

    Examples
    --------
    >>> sure = np.tile([0.98, 0.02], (10, 1))
    >>> round(fit_temperature(sure, np.array([0] * 8 + [1] * 2)), 2)
    2.81
    """
    if len(labels) == 0:
        return 1.0

    def loss(logarithm: float) -> float:
        return negative_log_likelihood(soft_labels, labels, temperature=float(np.exp(logarithm)))

    limits = float(np.log(LEAST_TEMPERATURE)), float(np.log(MOST_TEMPERATURE))
    found = float(minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-4}).x)
    return float(np.exp(found)) if loss(found) < loss(0.0) else 1.0


def _logits(soft_labels: SoftLabels) -> Float[np.ndarray, "examples classes"]:
    clamped = np.maximum(soft_labels.astype(np.float64), SMALLEST_PROBABILITY)
    logits: Float[np.ndarray, "examples classes"] = np.log(clamped)
    return logits
