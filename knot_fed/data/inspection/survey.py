"""What a data file holds, counted: classes, splits, lengths and repeated texts; nothing here quotes a text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from knot_fed.data.transfer_set import text_key
from knot_fed.types import Text

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Survey:
    """Counts of a file's texts.

    Parameters
    ----------
    characters
        Shortest, median and longest text.
    words
        The same in words, as spaces cut them.
    long
        Texts of more words than a teacher reads tokens.
    repeated
        Rows that repeat an earlier text of their split, up to case, spacing and punctuation.
    contradicting
        Texts that stand with more than one label.
    shared
        Texts that stand in two splits, by the two.
    replaced
        Texts with a replacement character, which an earlier conversion left.
    """

    characters: tuple[int, float, int]
    words: tuple[int, float, int]
    long: int
    repeated: int
    contradicting: int
    shared: dict[tuple[str, str], int]
    replaced: int


def survey_texts(texts: Sequence[Text], labels: Sequence[object], parts: Sequence[str], *, max_length: int) -> Survey:
    """Count.

    Parameters
    ----------
    texts, labels, parts
        Row by row; labels may be None.
    max_length
        Tokens that a teacher reads.
    """
    whole = [text if isinstance(text, str) else " ".join(text) for text in texts]
    words = [len(text.split()) for text in whole]
    keys = [text_key(text) for text in texts]
    by_part: dict[str, set[bytes]] = {part: set() for part in ("train", "val", "test")}
    repeated = 0
    for key, part in zip(keys, parts, strict=True):
        repeated += key in by_part[part]
        by_part[part].add(key)
    named: dict[bytes, set[str]] = {}
    for key, label in zip(keys, labels, strict=True):
        named.setdefault(key, set()).add(str(label))
    pairs = (("train", "val"), ("train", "test"), ("val", "test"))
    return Survey(
        characters=_spread([len(text) for text in whole]),
        words=_spread(words),
        long=sum(count > max_length for count in words),
        repeated=repeated,
        contradicting=sum(len(found) > 1 for found in named.values()),
        shared={pair: len(by_part[pair[0]] & by_part[pair[1]]) for pair in pairs},
        replaced=sum(REPLACEMENT in text for text in whole),
    )


def class_counts(labels: np.ndarray, parts: np.ndarray, names: Sequence[str]) -> dict[str, Counter[str]]:
    """Return how many rows of each split have each label."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for label, part in zip(labels.tolist(), parts.tolist(), strict=True):
        counts[names[label]][part] += 1
    return counts


def _spread(lengths: Sequence[int]) -> tuple[int, float, int]:
    return min(lengths), float(median(lengths)), max(lengths)
