"""Hashed word and character n-grams of many texts: each distinct word is analysed once.

The buckets are those of scikit-learn's `HashingVectorizer`, whose analysers would treat each text from its letters on.
A word is what `str.split` returns; no n-gram of characters crosses its ends, and its tokens are those of the text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
from jaxtyping import Int, UInt16, UInt32
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import HashingVectorizer

from knot_fed.models.items import Ragged

BUCKETS = 1 << 16
HALF = BUCKETS // 2
TOKEN = re.compile(r"\w+|[^\w\s]")
TEXTS_AT_ONCE, LETTERS_AT_ONCE = 1 << 13, 1 << 20
MOST_WORDS = 1 << 17
"""Distinct words to remember, so that memory is bounded."""
_KIND = {"n_features": HALF, "alternate_sign": False, "dtype": np.float32}


class NgramHasher:
    """Buckets of word n-grams (1 to 2), and in the upper half of character n-grams within words (3 to 5)."""

    def __init__(self) -> None:
        self._tokens = FeatureHasher(input_type="pair", **_KIND)
        self._characters = HashingVectorizer(
            analyzer="char_wb", ngram_range=(3, 5), lowercase=False, norm=None, **_KIND
        )

    def bags(self, texts: Sequence[str]) -> Ragged:
        """Return the distinct buckets of each text in ascending order, as 16-bit numbers."""
        parts, sizes, words = list[np.ndarray](), list[np.ndarray](), _Words(self)
        for part in _parts(texts):
            if len(words) > MOST_WORDS:
                words = _Words(self)
            values, counts = _bags(part, words)
            parts.append(values)
            sizes.append(counts)
        return Ragged.of_sizes(_joined(parts), np.concatenate(sizes) if sizes else np.zeros(0, dtype=np.int64))

    def of_tokens(self, tokens: Iterable[str]) -> UInt16[np.ndarray, "tokens"]:
        """Return the bucket of each token."""
        rows = chain([()], (((token, 1),) for token in tokens))  # it refuses to hash no rows
        buckets: UInt16[np.ndarray, tokens] = self._tokens.transform(rows).indices.astype(np.uint16)
        return buckets

    def of_characters(self, words: Sequence[str]) -> Ragged:
        """Return the buckets of the characters of each word."""
        if not words:
            return Ragged.of_sizes(np.zeros(0, dtype=np.uint16), np.zeros(0, dtype=np.int64))
        found = self._characters.transform(words)
        return Ragged.of_sizes((found.indices + HALF).astype(np.uint16), np.diff(found.indptr).astype(np.int64))


class _Words:
    """The words met so far, each with a number, its tokens, and the buckets of its characters."""

    def __init__(self, hasher: NgramHasher) -> None:
        self._hasher = hasher
        self._numbers = dict[str, int]()
        self.tokens = list[str]()
        self._token_numbers = dict[str, int]()
        self.token_buckets = np.zeros(0, dtype=np.uint16)
        nothing = np.zeros(0, dtype=np.int64)
        self.tokens_of, self.characters_of = Ragged.of_sizes(nothing, nothing), hasher.of_characters([])

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self, words: Sequence[str]) -> Int[np.ndarray, "words"]:
        """Return the number of each word; new ones are analysed."""
        new = [word for word in dict.fromkeys(words) if word not in self._numbers]
        if new:
            self._numbers.update(zip(new, range(len(self), len(self) + len(new)), strict=True))
            self._learn(new)
        return np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))

    def pairs(self, first: Int[np.ndarray, "pairs"], second: Int[np.ndarray, "pairs"]) -> UInt16[np.ndarray, "pairs"]:
        """Return the bucket of each pair of tokens, given by their numbers."""
        count = len(self.tokens)
        distinct, places = np.unique(first * count + second, return_inverse=True)
        spelt = (f"{self.tokens[pair // count]} {self.tokens[pair % count]}" for pair in distinct.tolist())
        return self._hasher.of_tokens(spelt)[places]

    def _learn(self, words: list[str]) -> None:
        tokens, known = [TOKEN.findall(word) for word in words], len(self.tokens)
        places = [self._token_numbers.setdefault(token, len(self._token_numbers)) for each in tokens for token in each]
        self.tokens += list(self._token_numbers)[known:]
        self.token_buckets = np.concatenate([self.token_buckets, self._hasher.of_tokens(self.tokens[known:])])
        sizes = np.array([len(each) for each in tokens], dtype=np.int64)
        self.tokens_of = _appended(self.tokens_of, Ragged.of_sizes(np.array(places, dtype=np.int64), sizes))
        self.characters_of = _appended(self.characters_of, self._hasher.of_characters(words))


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut the texts into parts of bounded size; a text may be longer."""
    start, letters = 0, 0
    for place, text in enumerate(texts):
        if place > start and (place - start == TEXTS_AT_ONCE or letters + len(text) > LETTERS_AT_ONCE):
            yield texts[start:place]
            start, letters = place, 0
        letters += len(text)
    if start < len(texts):
        yield texts[start:]


def _bags(texts: Sequence[str], words: _Words) -> tuple[UInt16[np.ndarray, "ngrams"], Int[np.ndarray, "texts"]]:
    """Return the buckets of a few texts, and how many each has."""
    split = [text.lower().split() for text in texts]
    sizes = np.array([len(each) for each in split], dtype=np.int64)
    numbers = words.numbers(list(chain.from_iterable(split)))
    of_word = np.repeat(np.arange(len(texts), dtype=np.uint32), sizes)
    tokens, characters = words.tokens_of.select(numbers), words.characters_of.select(numbers)
    of_token, token = np.repeat(of_word, tokens.sizes), tokens.joined()
    inside = np.flatnonzero(of_token[1:] == of_token[:-1])
    found = [
        _keys(of_token, words.token_buckets[token]),
        _keys(of_token[inside], words.pairs(token[inside], token[inside + 1])),
        _keys(np.repeat(of_word, characters.sizes), characters.joined()),
    ]
    keys = np.concatenate(found)
    keys.sort()  # np.unique would hash the numbers first, and take several times as long
    keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
    return (keys & np.uint32(BUCKETS - 1)).astype(np.uint16), np.bincount(keys >> np.uint32(16), minlength=len(texts))


def _keys(texts: UInt32[np.ndarray, "ngrams"], buckets: UInt16[np.ndarray, "ngrams"]) -> UInt32[np.ndarray, "ngrams"]:
    """Return numbers that sort by text, then by bucket."""
    keys: UInt32[np.ndarray, ngrams] = (texts << np.uint32(16)) | buckets
    return keys


def _appended(rows: Ragged, more: Ragged) -> Ragged:
    values, sizes = (np.concatenate(both) for both in ((rows.values, more.values), (rows.sizes, more.sizes)))
    return Ragged.of_sizes(values.astype(more.values.dtype), sizes)


def _joined(parts: list[np.ndarray]) -> UInt16[np.ndarray, "ngrams"]:
    """Concatenate the parts, and free each as soon as it is copied."""
    joined, end = np.empty(sum(map(len, parts)), dtype=np.uint16), 0
    parts.reverse()
    while parts:
        part = parts.pop()
        joined[end : end + len(part)] = part
        end += len(part)
    return joined
