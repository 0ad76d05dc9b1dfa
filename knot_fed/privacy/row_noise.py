"""Noise on soft labels, or on the votes of teachers trained on disjoint shards."""

import math

import numpy as np
from jaxtyping import Float

from knot_fed.privacy.noise import NoiseSource, add_gaussian
from knot_fed.types import SoftLabels

SQRT2 = math.sqrt(2)
"""Largest L2 distance between two distributions, and between histograms that differ in one moved vote."""
OF_FLOATS = 1 + 1e-6
"""Factor on a distance for float32 distributions, which do not sum to 1 exactly."""


def noisy_soft_labels(soft_labels: SoftLabels, *, noise_multiplier: float, source: NoiseSource) -> SoftLabels:
    """Add Gaussian noise to soft labels and project them onto the simplex.

    Unit: the client. Neighbouring relation: all its records replaced. Sensitivity: sqrt(2) for each row, the largest L2
    distance between two distributions; sqrt(2 T) for T rows. Accountant: `gaussian_epsilon`; projection is
    post-processing. `noise_multiplier` is the standard deviation of the noise over sqrt(2), > 0. Raises PrivacyError if
    it is out of range, or a soft label is not finite.
    """
    apart = SQRT2 * OF_FLOATS
    return project_to_simplex(add_gaussian(soft_labels, std=apart * noise_multiplier, sensitivity=apart, source=source))


def noisy_votes(
    answers: Float[np.ndarray, "shards examples classes"],
    *,
    noise_multiplier: float,
    labels_only: bool,
    source: NoiseSource,
) -> SoftLabels:
    """Answer for teachers on disjoint shards: their noisy votes or mean (GNMax of PATE, Papernot et al. 2018).

    Unit: one record. Neighbouring relation: add or remove one record, which changes the teacher of one shard only.
    Sensitivity, for one text: sqrt(2) for the histogram of votes, in which one vote moves from label to label, and
    sqrt(2) / shards for the mean distribution. Accountant: `gaussian_epsilon` over texts, a bound that holds for any
    votes. Everything after the noise is post-processing.

    Parameters
    ----------
    noise_multiplier
        Standard deviation of the noise over the sensitivity, > 0; raises PrivacyError otherwise.
    labels_only
        True returns the label with the most noisy votes as a one-hot row; False returns the noisy mean distribution,
        projected onto the simplex.
    """
    shards, classes = len(answers), answers.shape[2]
    if not labels_only:
        spread = SQRT2 * OF_FLOATS / shards
        mean = answers.mean(axis=0, dtype=np.float64)
        return project_to_simplex(add_gaussian(mean, std=spread * noise_multiplier, sensitivity=spread, source=source))
    votes = np.eye(classes)[answers.argmax(axis=2)].sum(axis=0)
    noisy = add_gaussian(votes, std=SQRT2 * noise_multiplier, sensitivity=SQRT2, source=source)
    return np.asarray(np.eye(classes, dtype=np.float32)[noisy.argmax(axis=1)])


def project_to_simplex(rows: Float[np.ndarray, "examples classes"]) -> SoftLabels:
    """Return the nearest distribution to each row in L2, float32 (Duchi et al. 2008).

    Examples
    --------
    >>> project_to_simplex(np.array([[0.5, 1.5], [0.25, 0.75]])).tolist()
    [[0.0, 1.0], [0.25, 0.75]]
    """
    falling = -np.sort(-rows, axis=1)
    excess = (np.cumsum(falling, axis=1) - 1) / np.arange(1, rows.shape[1] + 1)
    last = np.sum(falling > excess, axis=1, keepdims=True) - 1
    return np.maximum(rows - np.take_along_axis(excess, last, axis=1), 0.0).astype(np.float32)
