"""Counts of a data file's classes, splits, text lengths and repeated texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from knot_fed.data.private import PARTS
from knot_fed.data.transfer_set import text_key
from knot_fed.types import Text

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Survey:
    """Counts of a file's texts.

    Parameters
    ----------
    characters, words
        Shortest, median and longest text; words are separated by spaces.
    long
        Texts with more words than a teacher reads tokens.
    repeated
        Rows that repeat an earlier text of their split, up to case, spacing and punctuation.
    contradicting
        Texts that appear with more than one label.
    shared
        Texts that appear in both splits, by pair of splits.
    replaced
        Texts with a replacement character from an earlier conversion.
    """

    characters: tuple[int, float, int]
    words: tuple[int, float, int]
    long: int
    repeated: int
    contradicting: int
    shared: dict[tuple[str, str], int]
    replaced: int


def survey_texts(texts: Sequence[Text], labels: Sequence[object], parts: Sequence[str], *, max_length: int) -> Survey:
    """Count texts, given their labels (or None) and splits; a teacher reads `max_length` tokens."""
    whole = [text if isinstance(text, str) else " ".join(text) for text in texts]
    words = [len(text.split()) for text in whole]
    keys = [text_key(text) for text in texts]
    by_part = {part: {key for key, its_part in zip(keys, parts, strict=True) if its_part == part} for part in PARTS}
    labels_by_text = Counter(key for key, _ in {(key, str(label)) for key, label in zip(keys, labels, strict=True)})
    return Survey(
        characters=_spread([len(text) for text in whole]),
        words=_spread(words),
        long=sum(count > max_length for count in words),
        repeated=len(keys) - sum(map(len, by_part.values())),
        contradicting=sum(count > 1 for count in labels_by_text.values()),
        shared={(one, other): len(by_part[one] & by_part[other]) for one, other in combinations(PARTS, 2)},
        replaced=sum(REPLACEMENT in text for text in whole),
    )


def _spread(lengths: Sequence[int]) -> tuple[int, float, int]:
    return min(lengths), float(median(lengths)), max(lengths)
