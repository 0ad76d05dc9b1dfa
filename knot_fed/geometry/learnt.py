"""Vectors of labels that are learnt without any label: from the pooled soft labels, and from the student's features."""

from math import isqrt

import numpy as np
from jaxtyping import Float

MOST_TEXTS = 512
"""Texts whose kernels are compared."""
MOST_NUMBERS = 20_000_000
"""Entries of all labels' kernels together; with many labels, fewer texts are compared."""


def confusion_vectors(pooled: Float[np.ndarray, "texts classes"]) -> Float[np.ndarray, "classes texts"]:
    """Return each label's column of the pooled soft labels.

    The cosine of two columns, `sum_t q_ta q_tb / (|q_a| |q_b|)`, is their co-occurrence, normalised: 1 if the teachers
    always put mass on both in the same proportion, 0 if never on both.

    Examples
    --------
    >>> confusion_vectors(np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])).tolist()
    [[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]
    """
    return np.ascontiguousarray(pooled.T, dtype=np.float64)


def kernel_vectors(
    features: Float[np.ndarray, "texts width"], pooled: Float[np.ndarray, "texts classes"]
) -> Float[np.ndarray, "classes entries"]:
    """Return each label's centred kernel over the texts, as a vector; the cosine of two is their linear CKA.

    The features of label `a` are those of all texts, each times the root of the text's pooled probability of `a`:
    `X_a = H diag(q_a)^(1/2) F`, with `H` the centring, and `K_a = X_a X_a^T`. Then `cos(K_a, K_b)` is
    `|X_a^T X_b|^2 / (|X_a^T X_a| |X_b^T X_b|)` (Kornblith et al. 2019, arXiv 1905.00414). WKD-L (Lv et al. 2024, arXiv
    2412.08139) compares labels by CKA too, on features of labelled images, and in its public code turns the similarity
    into a cost by an exponential, which need not be a metric.

    Parameters
    ----------
    features
        The student's features of the transfer texts, before its output layer.
    pooled
        Pooled soft labels of the same texts.
    """
    count = min(len(features), MOST_TEXTS, max(2, isqrt(MOST_NUMBERS // pooled.shape[1])))
    rows = np.linspace(0, len(features) - 1, count).astype(int)
    centred = features[rows].astype(np.float64)
    centred -= centred.mean(axis=0)
    roots = np.sqrt(np.maximum(pooled[rows], 0.0))
    vectors = np.empty((pooled.shape[1], count * count))
    for label, root in enumerate(roots.T):
        own = root[:, None] * centred
        own -= own.mean(axis=0)
        vectors[label] = (own @ own.T).ravel()
    return vectors
