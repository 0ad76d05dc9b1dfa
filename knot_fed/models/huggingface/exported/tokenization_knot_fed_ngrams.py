"""The tokenizer of `modeling_knot_fed_ngrams.py`: hashed n-grams of words (1 to 2) and of letters in a word (3 to 5).

This file needs only transformers. Buckets are those of scikit-learn's `FeatureHasher` with 32-bit MurmurHash3.
"""

import re
from functools import lru_cache
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizer

BUCKETS = 1 << 16
HALF = BUCKETS // 2
PAD = "[PAD]"
TOKEN = re.compile(r"\w+|[^\w\s]")
BITS = 0xFFFFFFFF


class KnotFedNgramsTokenizer(PreTrainedTokenizer):
    """Turns a text into the distinct buckets of its n-grams, in ascending order."""

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        self._numbers = {**{str(bucket): bucket for bucket in range(BUCKETS)}, PAD: BUCKETS}
        super().__init__(**{"pad_token": PAD, **settings})

    @property
    def vocab_size(self) -> int:
        """The number of buckets, and one for padding."""
        return len(self._numbers)

    def get_vocab(self) -> dict[str, int]:
        """Return the number of each bucket by its name."""
        return dict(self._numbers)

    def tokenize(self, text: str, *_: Any, **__: Any) -> list[str]:
        """Return the names of the buckets of a text; nothing in a text is a special token."""
        return [str(bucket) for bucket in buckets(text)]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Join the buckets of a pair."""
        return token_ids_0 + (token_ids_1 or [])

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return 0 for the first text, and 1 for the second."""
        return [0] * len(token_ids_0) + [1] * len(token_ids_1 or [])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:  # noqa: ARG002
        """Write nothing: the buckets are numbers."""
        return ()

    def _convert_token_to_id(self, token: str) -> int:
        return self._numbers[token]

    def _convert_id_to_token(self, index: int) -> str:
        return PAD if index == BUCKETS else str(index)


def buckets(text: str) -> list[int]:
    """Return the distinct buckets of a text in ascending order."""
    words = text.lower().split()
    tokens = [token for word in words for token in TOKEN.findall(word)]
    pairs = [f"{first} {second}" for first, second in pairwise(tokens)]
    found = {bucket(gram) for gram in (*tokens, *pairs)}
    return sorted(found.union(*(letters(word) for word in words)))


@lru_cache(maxsize=1 << 15)
def letters(word: str) -> frozenset[int]:
    """Return the buckets of 3 to 5 successive letters of a word, with a space at its ends."""
    around = f" {word} "
    grams = {around[start : start + size] for size in (3, 4, 5) for start in range(max(1, len(around) - size + 1))}
    return frozenset(HALF + bucket(gram) for gram in grams)


def bucket(gram: str) -> int:
    """Return the signed hash, without its sign, modulo the number of buckets."""
    hashed = murmur(gram.encode("utf-8"))
    return (hashed if hashed < 1 << 31 else (1 << 32) - hashed) % HALF


def murmur(key: bytes) -> int:
    """Return MurmurHash3 of 32 bits with seed 0."""
    state, whole = 0, len(key) - len(key) % 4
    for start in range(0, whole, 4):
        state = _turned(state ^ _mixed(int.from_bytes(key[start : start + 4], "little")), 13) * 5 + 0xE6546B64 & BITS
    if len(key) > whole:
        state ^= _mixed(int.from_bytes(key[whole:], "little"))
    state ^= len(key)
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        state = (state ^ state >> shift) * factor & BITS
    return state ^ state >> 16


def _mixed(block: int) -> int:
    return _turned(block * 0xCC9E2D51 & BITS, 15) * 0x1B873593 & BITS


def _turned(value: int, by: int) -> int:
    return (value << by | value >> 32 - by) & BITS
