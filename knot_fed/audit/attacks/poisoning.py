"""Poisoned soft labels of one dishonest client: valid distributions with wrong content."""

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
    """Return what a dishonest client sends instead of its teacher's soft labels; rows stay on the simplex.

    Parameters
    ----------
    kind
        `random`: a uniformly drawn label for each text, one-hot. `flipped`: the probabilities of the row in reverse
        order of size. `most distant`: one-hot on the label at the largest ground cost from the teacher's (after CPA,
        arXiv 2401.03685, which selects by the similarity of classes).

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
    return np.asarray(np.eye(classes, dtype=soft_labels.dtype)[chosen])
