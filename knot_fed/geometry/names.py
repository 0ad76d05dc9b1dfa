"""Label names as an encoder reads them."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from knot_fed.errors import GroundCostError
from knot_fed.geometry.vectors import unit_distances
from knot_fed.models import encoder_identity, mean_pooled_features

_BETWEEN_WORDS = re.compile(r"[\s_\-./:|]+|(?<=[a-z0-9])(?=[A-Z])")


def as_words(names: Sequence[str]) -> list[str]:
    """Return label names as words: without underscores, camel case, and words with which all of them begin.

    Examples
    --------
    >>> as_words(["very_negative", "veryPositive", "neutral"])
    ['very negative', 'very positive', 'neutral']
    >>> as_words(["topic/world-news", "topic/sports"])
    ['world news', 'sports']
    """
    split = [[word for word in _BETWEEN_WORDS.split(name) if word] or [name] for name in names]
    words = [[word if word.isupper() else word.lower() for word in parts] for parts in split]
    while len(words) > 1 and all(len(parts) > 1 for parts in words) and len({parts[0] for parts in words}) == 1:
        words = [parts[1:] for parts in words]
    return [" ".join(parts) for parts in words]


def name_distances(names: tuple[str, ...], encoder: str) -> Float[np.ndarray, "classes classes"]:
    """Return the distances between label names, as directions of the encoder's mean-pooled features.

    Raises
    ------
    GroundCostError
        If two names read alike.
    ModelError
        If the encoder cannot be used.
    """
    distances = _embedded(names, encoder, encoder_identity(encoder))
    alike = np.argwhere((distances <= 1e-6) & ~np.eye(len(names), dtype=bool))
    if len(alike):
        one, other = (names[place] for place in alike[0])
        raise GroundCostError(
            f"labels {one!r} and {other!r} read alike to {encoder.rpartition('/')[2]}; give one of them another name"
        )
    return distances


@lru_cache(maxsize=32)
def _embedded(names: tuple[str, ...], encoder: str, _identity: str) -> Float[np.ndarray, "classes classes"]:
    """Return the distances, computed once by a process; its identity tells another content apart."""
    features = mean_pooled_features(encoder, as_words(names)).astype(np.float64)
    return unit_distances(features, source="the embeddings of the label names")
