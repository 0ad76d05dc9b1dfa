"""How much each teacher counts, and the weighted mean of their soft labels."""

import numpy as np
from jaxtyping import Float, Int

from knot_fed.errors import ConfigError
from knot_fed.types import SoftLabels


def client_weights(
    scheme: str, *, examples: Int[np.ndarray, "clients"], confidences: Float[np.ndarray, "clients texts"]
) -> Float[np.ndarray, "clients texts"]:
    """Weigh the teachers on each text.

    Parameters
    ----------
    scheme
        `uniform`; `size`, by training examples; or `confidence`, by each teacher's own confidence on each text.
    examples
        Training examples of each teacher; teachers that did not tell theirs (0) count as the mean of the others.
    confidences
        Distance of each prediction from the teacher's prediction bias, >= 0; read by `confidence` only.

    Returns
    -------
    weights
        float64, >= 0; the teachers' weights on each text sum to 1. A text on which nobody is confident is weighed
        uniformly.

    Raises
    ------
    ConfigError
        If there is no such scheme.

    Examples
    --------
    >>> client_weights("size", examples=np.array([1, 3]), confidences=np.zeros((2, 1))).tolist()
    [[0.25], [0.75]]
    """
    if scheme == "uniform":
        raw = np.ones(confidences.shape)
    elif scheme == "size":
        told = examples[examples > 0]
        sizes = np.where(examples > 0, examples, told.mean() if len(told) else 1.0)
        raw = np.repeat(sizes.astype(np.float64)[:, None], confidences.shape[1], axis=1)
    elif scheme == "confidence":
        raw = confidences.astype(np.float64)
        raw = np.where(raw.sum(axis=0) > 0, raw, 1.0)
    else:
        raise ConfigError(f"weights.scheme = {scheme!r}: no such scheme; use uniform, size or confidence")
    weights: Float[np.ndarray, "clients texts"] = raw / raw.sum(axis=0)
    return weights


def pool_soft_labels(
    soft_labels: Float[np.ndarray, "clients examples classes"], weights: Float[np.ndarray, "clients examples"]
) -> SoftLabels:
    """Average the teachers' soft labels: `sum_k w_k[t] q_k[t]`, added up in the order given, in float64.

    Parameters
    ----------
    soft_labels
        One distribution for each teacher and text.
    weights
        As `client_weights` gives them.

    Returns
    -------
    pooled
        float64 rows on the simplex.

    Examples
    --------
    >>> pool_soft_labels(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), np.array([[0.25], [0.75]])).tolist()
    [[0.25, 0.75]]
    """
    pooled = np.zeros(soft_labels.shape[1:])
    for teacher, weight in zip(soft_labels, weights, strict=True):
        pooled += weight[:, None] * teacher
    return pooled
