"""Soft labels that one dishonest client may send: valid rows that say the wrong thing."""

import numpy as np
from jaxtyping import Float

from knot_fed.types import SoftLabels

POISONS = ("random", "flipped", "most distant")


def poisoned(
    soft_labels: SoftLabels,
    kind: str,
    *,
    ground_cost: Float[np.ndarray, "classes classes"],
    generator: np.random.Generator,
) -> SoftLabels:
    """Return what a dishonest client sends in the place of its teacher's soft labels; rows stay on the simplex.

    Parameters
    ----------
    soft_labels
        What the teacher says.
    kind
        `random`: a label drawn evenly for each text, with certainty. `flipped`: the row's probabilities in reverse
        order of size, so that the likeliest label becomes the least likely one. `most distant`: all mass on the label
        that the ground cost puts farthest from the teacher's (after CPA, arXiv 2401.03685, which picks by the
        similarity of classes).
    ground_cost
        Of the run.
    generator
        Of the random labels.

    Examples
    --------
    >>> cost = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    >>> poisoned(np.array([[0.7, 0.2, 0.1]]), "flipped", ground_cost=cost * 1.0, generator=np.random.default_rng(0))
    array([[0.1, 0.2, 0.7]])
    """
    classes = soft_labels.shape[1]
    if kind == "random":
        chosen = generator.integers(classes, size=len(soft_labels))
    elif kind == "most distant":
        chosen = ground_cost.argmax(axis=1)[soft_labels.argmax(axis=1)]
    else:
        ranks = soft_labels.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        return np.take_along_axis(np.sort(soft_labels, axis=1), classes - 1 - ranks, axis=1)
    rows: SoftLabels = np.eye(classes, dtype=soft_labels.dtype)[chosen]
    return rows
