"""Labelled texts of one owner: reading, checks and splits. No message quotes a row."""

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from knot_fed.data.reading.characters import check_characters
from knot_fed.data.reading.files import BUILTIN, error_role, read_table, short_name
from knot_fed.data.reading.label_values import read_labels
from knot_fed.data.reading.separated import Dialect
from knot_fed.data.reading.table import Table, missing_column
from knot_fed.data.reviews import builtin_examples
from knot_fed.errors import DataError
from knot_fed.labels import LabelSpace
from knot_fed.types import LabelledTexts, SplitExamples, Text

OnNote: TypeAlias = Callable[[str, str], None]
"""Receives the name of a file and a sentence on how it is read, if that may surprise its owner."""
PARTS = ("train", "val", "test")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
VAL_SHARE, TEST_SHARE = 0.1, 0.2


def ignore_note(_name: str, _sentence: str) -> None:
    """Discard the sentence."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Column names of a file, which has either `text` or both `text_a` and `text_b`; `split` is optional.

    `separator` cuts a text in two at its first occurrence, such as a dialogue's newest turn from the turns before it.
    `id` is the column by which virtual clients share a file. Both may be empty. `delimiter` and `quoting` are those of
    `Dialect`.
    """

    text: str = "text"
    text_a: str = "text_a"
    text_b: str = "text_b"
    label: str = "label"
    split: str = "split"
    separator: str = ""
    id: str = ""
    delimiter: str = ""
    quoting: str = "auto"

    @classmethod
    def from_settings(cls, *settings: object) -> "Columns":
        """Take each value except `id` from the first settings in which it is not empty."""
        names = [name for name in cls.__slots__ if name != "id"]
        found = {name: [getattr(each, name) for each in settings] for name in names}
        return cls(**{name: next(filter(None, values), "") for name, values in found.items()})

    @property
    def dialect(self) -> Dialect:
        """Delimiter and quoting of csv and tsv files."""
        return Dialect(self.delimiter, self.quoting)

    @property
    def of_text(self) -> tuple[str, str, str]:
        """The columns with text."""
        return self.text, self.text_a, self.text_b


@error_role("the private file")
def read_labelled_texts(
    path: str | Path,
    *,
    columns: Columns,
    labels: LabelSpace,
    key: bytes = b"",
    limit: int = 0,
    least_classes: int = 1,
    on_note: OnNote = ignore_note,
) -> SplitExamples:
    """Read labelled texts with their splits.

    If the file lacks a split, it is cut from the training rows: about one tenth for validation, one fifth for the test.
    A keyed hash of each record alone decides, so that adding a record moves no other and equal records stay together. A
    split that would be empty gets the record with the lowest hash.

    Parameters
    ----------
    path
        csv, tsv, jsonl (each also with .gz), parquet, `hub:<name>` or `builtin:<domain>`.
    columns
        Column names.
    labels
        The label space; labels are read as in `read_labels`.
    key
        Key of the hash, from `seed_key` or an owner's secret; empty: a public one.
    limit
        Training rows to keep at most, those with the lowest hashes; 0: all. An added record replaces at most one other.
    least_classes
        Fewest labels among the training rows: 2 for a file that a student is trained on.
    on_note
        Called with the file's name and a sentence for each surprise.

    Raises
    ------
    DataError
        If the file is missing, malformed, empty, not UTF-8, lacks a column, has unknown labels, empty or broken texts,
        too few classes to train on, or an empty split.
    """
    path, name = str(path), short_name(str(path))
    if path.startswith(BUILTIN):
        split = builtin_examples(path.removeprefix(BUILTIN), labels)
    else:
        split = _read_splits(path, columns=columns, labels=labels, key=key, on_note=on_note)
    if limit:
        lowest = np.argsort(record_chances(split.train, key=key)[:, 2], kind="stable")[:limit]
        split = replace(split, train=split.train.select(np.sort(lowest)), cut=False)
    _check_size(split, name=name, least_classes=least_classes, limited=bool(limit))
    return split


def _read_splits(path: str, *, columns: Columns, labels: LabelSpace, key: bytes, on_note: OnNote) -> SplitExamples:
    """Read a file, and cut the splits that it lacks."""
    wanted = {*columns.of_text, columns.label, columns.split, *filter(None, [columns.id])}
    table = read_table(path, wanted, dialect=columns.dialect, split=columns.split)
    name = short_name(path)
    if table.layout:
        on_note(name, table.layout)
    indices, how = read_labels(table, columns.label, labels, name=name)
    if how:
        on_note(name, how)
    ids = tuple(map(str, table.columns.get(columns.id, ())))
    examples = LabelledTexts(texts_of(table, columns, name=name), indices, ids)
    parts = parts_of(table.columns.get(columns.split), len(table), name=name, column=columns.split)
    chances = record_chances(examples, key=key)
    cut = bool((parts == "train").all())
    _cut_missing(parts, "test", TEST_SHARE, chances[:, 0])
    _cut_missing(parts, "val", VAL_SHARE / (1 - TEST_SHARE), chances[:, 1])
    return SplitExamples(*(examples.select(np.flatnonzero(parts == part)) for part in PARTS), cut=cut)


def _check_size(split: SplitExamples, *, name: str, least_classes: int, limited: bool) -> None:
    """Refuse a file with an empty split or too few classes."""
    sizes = [len(split.train), len(split.val), len(split.test)]
    if not all(sizes):
        raise DataError(
            f"{name}: {sizes[0]} rows to train on, {sizes[1]} to validate and {sizes[2]} to test; give 3 rows or more,"
            " and some for each split",
            refusal="no rows to train on, to validate or to test",
        )
    if len(np.unique(split.train.labels)) < least_classes:
        more = "raise data.limit, or add rows" if limited else "add rows"
        raise DataError(
            f"{name}: {len(split.train)} training rows with fewer than {least_classes} classes; {more} of another"
            " class",
            refusal="fewer classes to train on than are needed",
        )


def join_examples(parts: Sequence[SplitExamples]) -> SplitExamples:
    """Concatenate the examples of several files, split by split."""
    return SplitExamples(
        *(join_texts([getattr(part, split) for part in parts]) for split in PARTS), cut=all(part.cut for part in parts)
    )


def join_texts(parts: Sequence[LabelledTexts]) -> LabelledTexts:
    """Concatenate labelled texts."""
    return LabelledTexts(
        tuple(text for part in parts for text in part.texts),
        np.concatenate([part.labels for part in parts]),
        tuple(each for part in parts for each in part.ids),
    )


def texts_of(table: Table, columns: Columns, *, name: str, options: bool = False) -> tuple[Text, ...]:
    """Return one text or one pair per row; `options`: errors name options of a command instead of keys of `data`.

    Raises
    ------
    DataError
        If the text columns are missing, or some texts are empty or broken.
    """
    held = table.columns
    paired = columns.text not in held and columns.text_a in held and columns.text_b in held
    if columns.text not in held and not paired:
        wanted = f"column {columns.text!r}, nor both {columns.text_a!r} and {columns.text_b!r}"
        key = "--text, or --text-a and --text-b" if options else "data.text, or data.text-a and data.text-b"
        message = missing_column(table, wanted, name=name, key=key, options=options)
        raise DataError(message, refusal="no text column")
    parts = [held[column] for column in ((columns.text_a, columns.text_b) if paired else (columns.text,))]
    rows = zip(*parts, strict=True)
    bad = [place for place, row in enumerate(rows) if not all(isinstance(text, str) and text.strip() for text in row)]
    if bad:
        odd = any(part[place] is not None and not isinstance(part[place], str) for place in bad for part in parts)
        remedy = "write strings, and " if odd else ""
        raise DataError(
            f"{name}: {table.at(bad)}: {len(bad)} of {len(table)} rows have no text; {remedy}fill or drop them",
            refusal="some rows have no text",
        )
    strings = [map(str, part) for part in parts]
    texts: tuple[Text, ...] = tuple(zip(*strings, strict=True)) if paired else tuple(strings[0])
    check_characters(texts, table, name=name)
    if columns.separator and not paired:
        halves = (str(text).partition(columns.separator) for text in texts)
        return tuple((first, rest) for first, _, rest in halves)
    return texts


def limited_rows(count: int, limit: int) -> Int[np.ndarray, "rows"]:
    """Return the sorted positions of at most `limit` of `count` rows (0: of all), the same in every run.

    Examples
    --------
    >>> limited_rows(3, 0).tolist()
    [0, 1, 2]
    """
    rows = np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(rows)[:limit]) if limit else rows


def parts_of(values: list[object] | None, rows: int, *, name: str, column: str) -> np.ndarray:
    """Return each row's split: train, val or test; all are train if `values` is None.

    Raises
    ------
    DataError
        If some rows name another split.
    """
    if values is None:
        return np.full(rows, "train", dtype=object)
    parts = np.array([SPLITS.get(str(value).strip().lower(), "") for value in values], dtype=object)
    unknown = int((parts == "").sum())
    if unknown:
        raise DataError(
            f"{name}: column {column!r}: {unknown} of {rows} rows are not train, val or test; correct them,"
            " or name another data.split",
            refusal="the split column has values other than train, val and test",
        )
    return parts


def seed_key(seed: int) -> bytes:
    """Return the public key by which a study with this seed splits files."""
    return hashlib.sha256(f"knot_fed seed {seed}".encode()).digest()


def record_chances(examples: LabelledTexts, *, key: bytes) -> Float[np.ndarray, "examples 3"]:
    """Return three numbers in [0, 1) per record: a keyed hash of nothing but its text and label.

    Examples
    --------
    >>> twice = LabelledTexts(("a", "b", "a"), np.array([0, 0, 0]))
    >>> first, _, third = record_chances(twice, key=seed_key(1)).tolist()
    >>> first == third
    True
    """
    records = zip(examples.texts, examples.labels.tolist(), strict=True)
    hashed = b"".join(hmac.digest(key, json.dumps(record).encode(), "sha256")[:24] for record in records)
    words = np.frombuffer(hashed, dtype="<u8").reshape(-1, 3)
    chances: Float[np.ndarray, "examples 3"] = (words >> np.uint64(11)) * 2.0**-53
    return chances


def _cut_missing(parts: np.ndarray, part: str, share: float, chances: Float[np.ndarray, "examples"]) -> None:
    """Move training rows with a low chance, at least one, to a split that the file lacks."""
    rows = np.flatnonzero(parts == "train")
    if (parts == part).any() or len(rows) < 2:
        return
    parts[rows[chances[rows] < max(share, np.nextafter(chances[rows].min(), 1))]] = part
