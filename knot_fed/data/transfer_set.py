"""The transfer set: ordered public texts that every teacher labels, identified by a fingerprint."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int, UInt8

from knot_fed.data.private import Columns, OnNote, ignore_note, limited_rows, texts_of
from knot_fed.data.reading.files import BUILTIN, error_role, read_table, short_name
from knot_fed.data.reviews import builtin_texts
from knot_fed.errors import ConfigError, DataError
from knot_fed.files import make_folder, write_file
from knot_fed.types import Text

LEAST_TEXTS = 2
"""Per round: one to train on and one to validate on."""
MOST_TEXTS = 1_000_000
LONGEST_TEXT = 100_000
MOST_LETTERS = 1 << 28
"""Of all texts that one message carries: 268 characters for each of a million; Flower's limit is 2 GiB a message."""
TEXT_KEY_BYTES = 16
TextKeys: TypeAlias = UInt8[np.ndarray, "texts bytes"]
WORD = re.compile(r"\w+")
SPACES = "\t\n\r"
UNSEEN = ("Mn", "Me", "Cf", "Cc", "Co", "Cs", "Cn")
"""Unicode categories of accents and invisible characters, which tokenizers drop within words."""
UNSEEN_ASCII = {
    code: None for code in range(128) if unicodedata.category(chr(code)) in UNSEEN and chr(code) not in SPACES
}
KNOWN_CHARACTERS = 1 << 12


@dataclass(frozen=True)
class TransferSet:
    """Unlabelled texts or pairs, all of one kind, in an order that server and clients share.

    `repeated` counts rows of the file that were dropped as repetitions, and `known_keys` are those of the texts if they
    were computed before.

    Examples
    --------
    >>> TransferSet(("a", "b", "c")).slice(1, 2)
    range(0, 1)
    """

    texts: tuple[Text, ...]
    repeated: int = field(default=0, compare=False)
    known_keys: TextKeys | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def paired(self) -> bool:
        """Whether each row is a pair of texts."""
        return bool(self.texts) and not isinstance(self.texts[0], str)

    def columns(self) -> tuple[list[str], ...]:
        """Return the texts as one list, or pairs as two."""
        sides = ([text[side] for text in self.texts] for side in ((0, 1) if self.paired else ()))
        return tuple(sides) or (list(map(str, self.texts)),)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the texts and their order, in hexadecimal."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(json.dumps(text, ensure_ascii=True).encode() + b"\n")
        return digest.hexdigest()

    @cached_property
    def keys(self) -> TextKeys:
        """The `text_key` of each text."""
        return _keys(map(text_key, self.texts)) if self.known_keys is None else self.known_keys

    def slice(self, round_number: int, slices: int) -> range:
        """Return the row positions of a round, from 1; `slices` rounds cover all rows, near-equally, and then again."""
        if slices > len(self):
            raise DataError(f"{len(self)} transfer texts for {slices} rounds; lower rounds or give more texts")
        place = (round_number - 1) % slices
        return range(len(self) * place // slices, len(self) * (place + 1) // slices)


def text_key(text: Text) -> bytes:
    r"""Return 16 bytes that are equal for texts with the same letters and digits in the same words.

    Case, accents, spacing, punctuation and invisible characters are ignored, since a model answers such texts (nearly)
    alike. A text without letters and digits is identified by its other characters.

    Examples
    --------
    >>> text_key("So  GOOD!") == text_key("so go\u200bo\u0301d")
    True
    """
    parts = [text] if isinstance(text, str) else list(text)
    return _key([" ".join(WORD.findall(_plain(part))) or " ".join(_folded(part).split()) for part in parts])


def keys_of_values(values: Iterable[object]) -> TextKeys:
    """Return a key for each JSON value; equal values have equal keys."""
    return _keys(map(_key, values))


def _key(value: object) -> bytes:
    return hashlib.sha256(json.dumps(value).encode()).digest()[:TEXT_KEY_BYTES]


def _keys(keys: Iterable[bytes]) -> TextKeys:
    joined = bytearray()
    for key in keys:
        joined += key
    return np.frombuffer(bytes(joined), dtype=np.uint8).reshape(-1, TEXT_KEY_BYTES)


def first_rows(keys: TextKeys) -> Int[np.ndarray, "distinct"]:
    """Return the first position of each distinct key, in order.

    Examples
    --------
    >>> first_rows(keys_of_values(["b", "a", "b", "c"])).tolist()
    [0, 1, 3]
    """
    first, second = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 2).T
    order = np.lexsort((second, first))
    again = (np.diff(first[order]) == 0) & (np.diff(second[order]) == 0)
    return np.sort(order[np.append(True, ~again)[: len(order)]])


def _folded(part: str) -> str:
    return part.lower() if part.isascii() else unicodedata.normalize("NFKC", part).casefold()


def _plain(part: str) -> str:
    if part.isascii():
        return part.lower().translate(UNSEEN_ASCII)
    return "".join(filter(_is_seen, unicodedata.normalize("NFKD", _folded(part))))


@lru_cache(KNOWN_CHARACTERS)
def _is_seen(sign: str) -> bool:
    return sign in SPACES or unicodedata.category(sign) not in UNSEEN


def distinct_texts(texts: Sequence[Text]) -> TransferSet:
    """Keep the first of the texts that share a `text_key`, in order."""
    keys = _keys(map(text_key, texts))
    rows = first_rows(keys)
    if len(rows) == len(texts):
        return TransferSet(tuple(texts), known_keys=keys)
    return TransferSet(tuple(texts[row] for row in rows), repeated=len(texts) - len(rows), known_keys=keys[rows])


def save_transfer_set(transfer: TransferSet, file: Path) -> None:
    """Store the texts that a server sent, so that a restart finds them; earlier ones are replaced."""
    make_folder(file.parent)
    write_file(file, json.dumps(transfer.texts, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def load_transfer_set(file: Path, *, fingerprint: str) -> TransferSet | None:
    """Read the stored texts; None if they are missing, damaged or have another fingerprint."""
    try:
        texts = json.loads(file.read_text(encoding="utf-8"))
        transfer = TransferSet(tuple(text if isinstance(text, str) else (text[0], text[1]) for text in texts))
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return transfer if transfer.fingerprint == fingerprint else None


def check_rounds(texts: int, rounds: int, *, name: str) -> None:
    """Raise `ConfigError` if a round would have fewer than `LEAST_TEXTS` distinct texts."""
    if texts < LEAST_TEXTS * rounds:
        raise ConfigError(
            f"{name}: {texts} distinct transfer text(s) for {rounds} round(s); give {LEAST_TEXTS} or more for each"
            " round"
        )


def excess(column: Sequence[str]) -> str:
    """Return what of a column of texts is more than one message carries; empty if nothing is.

    Examples
    --------
    >>> excess(["one", "two"]), excess(["x" * 100_001])
    ('', 'a text is longer than 100000 characters')
    """
    if len(column) > MOST_TEXTS:
        return f"{len(column)} texts are more than {MOST_TEXTS}"
    if max(map(len, column), default=0) > LONGEST_TEXT:
        return f"a text is longer than {LONGEST_TEXT} characters"
    letters = sum(map(len, column))
    return f"the texts have {letters} characters, more than {MOST_LETTERS}" if letters > MOST_LETTERS else ""


def check_sendable(transfer: TransferSet, *, name: str) -> None:
    """Raise `ConfigError` if no message can carry the texts to a client."""
    for column in transfer.columns():
        too_much = excess(column)
        if too_much:
            raise ConfigError(
                f"{name}: {too_much}, which no message carries to a client; cut long texts or set data.limit, or give"
                f" each client of a deployment the file (transfer in its node configuration), with {MOST_TEXTS} texts"
                " at most"
            )


@error_role("the client's copy of the transfer set")
def read_transfer_set(
    path: str | Path, *, columns: Columns, limit: int = 0, on_note: OnNote = ignore_note
) -> TransferSet:
    """Read the distinct texts of all splits of a file; its labels are never read.

    Parameters
    ----------
    path, columns, on_note
        As in `read_labelled_texts`.
    limit
        Rows to read at most, drawn by `limited_rows`; 0: all.

    Raises
    ------
    DataError
        If the file is missing, malformed, empty, not UTF-8, lacks the text column, or has rows without text.
    """
    path = str(path)
    texts: Sequence[Text]
    if path.startswith(BUILTIN):
        texts = builtin_texts(path.removeprefix(BUILTIN))
    else:
        table, name = read_table(path, set(columns.of_text), dialect=columns.dialect), short_name(path)
        if table.layout:
            on_note(name, table.layout)
        texts = texts_of(table, columns, name=name)
    return distinct_texts([texts[row] for row in limited_rows(len(texts), limit)] if limit else texts)
