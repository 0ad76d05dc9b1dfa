"""Which rows of a file go to which of the virtual clients that share it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from knot_fed.data.partitioners import PARTITIONERS, Sharing
from knot_fed.data.private import join_texts
from knot_fed.errors import DataError
from knot_fed.types import SplitExamples, Text

DRAWS = 300
"""How often a random partition is drawn before it is refused."""
PATTERN = (0, 0, 0, 0, 2, 0, 0, 1, 0, 2)
"""Splits of successive records where a file is cut evenly: 70 % to train on, 10 % to validate, 20 % to test."""
FAR, MORE_DRAWS = 0.5, 30
"""Total variation between two splits of a share beyond which another draw is tried, and how many are."""
RANDOM = ("dirichlet", "pathological", "shard")
REMEDIES = {
    "dirichlet": "raise data.alpha",
    "pathological": "raise data.labels-per-client",
    "shard": "change data.labels-per-client",
}


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """The share of each row of a file, by split, and how many draws it took."""

    examples: SplitExamples
    places: dict[str, Int[np.ndarray, "rows"]]
    draws: int


@dataclass(frozen=True, slots=True)
class _Rows:
    """What a partition reads of a file's rows, one after the other by split."""

    sizes: tuple[int, ...]
    label_bytes: bytes
    ids: tuple[str, ...]

    @property
    def labels(self) -> Int[np.ndarray, "rows"]:
        return np.frombuffer(self.label_bytes, dtype=np.int64)

    @property
    def parts(self) -> Int[np.ndarray, "rows"]:
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


def cut_evenly(examples: SplitExamples, *, seed: int, by_id: bool) -> SplitExamples:
    """Cut a file without splits again, 70/10/20 within each label, so that small shares of it have all splits.

    Equal records stay on one side. The cut by a hash of each record is an owner's, for whom one record more must move
    no other; a study's shares have no owner, and for few rows that cut is uneven.

    Parameters
    ----------
    examples
        All examples of the file.
    seed
        Of the cut.
    by_id
        Whether to cut so within the rows of each id.
    """
    whole = join_texts([examples.train, examples.val, examples.test])
    ids = whole.ids if by_id and whole.ids else [""] * len(whole)
    records = list(zip(whole.texts, whole.labels.tolist(), ids, strict=True))
    drawn = [hashlib.sha256(json.dumps([seed, text]).encode()).digest() for text in whole.texts]
    order = sorted(range(len(records)), key=lambda row: (records[row][2], records[row][1], drawn[row]))
    parts, chosen = np.empty(len(records), dtype=np.int64), dict[tuple[Text, int], int]()
    for position, row in enumerate(order):
        parts[row] = chosen.setdefault(records[row][:2], PATTERN[position % len(PATTERN)])
    return SplitExamples(*(whole.select(np.flatnonzero(parts == part)) for part in range(3)), cut=True)


def share_rows(examples: SplitExamples, sharing: Sharing) -> Shares:
    """Draw once for the whole file who gets which rows, each row to one share, and each in the split that it has.

    A file that gave no splits is cut evenly before.

    A share has the same mix of labels in all its splits as far as the file has, to a row of each label: rows lie in an
    order in which the splits of each label, and the labels, alternate evenly, and shares are runs of it.

    Parameters
    ----------
    examples
        All examples of the file.
    sharing
        How it is shared.

    Raises
    ------
    DataError
        If a share has too few rows in every draw; the message says how few, and what to change.
    """
    if examples.cut:
        examples = cut_evenly(examples, seed=sharing.seed, by_id=sharing.scheme == "natural-id")
    parts = {"train": examples.train, "val": examples.val, "test": examples.test}
    sizes = tuple(len(part) for part in parts.values())
    labels = np.concatenate([part.labels for part in parts.values()], dtype=np.int64).tobytes()
    rows = _Rows(sizes, labels, tuple(each for part in parts.values() for each in part.ids))
    _check_scheme(rows, sharing)
    places, told = _first_fair(rows, sharing)
    if places is None:
        raise _too_few(sharing, told)
    return Shares(examples, dict(zip(parts, np.split(places, np.cumsum(sizes)[:-1]), strict=True)), told)


@lru_cache(maxsize=8)
def _first_fair(rows: _Rows, sharing: Sharing) -> tuple[Int[np.ndarray, "rows"] | None, int]:
    """Return the first draw in which all have enough, and its number; or none, and the best of the smallest shares.

    A draw in which all have splits of like mixes comes before one in which a few rows to judge by are of rare labels.
    """
    smallest, enough = 0, None
    for draw, places in enumerate(_draws(rows, sharing), start=1):
        if places is None:
            continue
        counts = _counts(rows, places, sharing.count)
        train, *held_out = counts.sum(axis=2)
        if np.all(held_out):
            smallest = max(smallest, int(train.min()))
            if train.min() >= sharing.min_examples:
                if _farthest(counts) <= FAR:
                    return places, draw
                enough = enough or (places, draw)
        if enough and draw - enough[1] >= MORE_DRAWS:
            break
    return enough or (None, smallest)


def _counts(rows: _Rows, places: Int[np.ndarray, "rows"], count: int) -> Int[np.ndarray, "splits shares labels"]:
    """Count the rows of each split, share and label."""
    table = np.zeros((len(rows.sizes), count, int(rows.labels.max()) + 1), dtype=np.int64)
    np.add.at(table, (rows.parts, places, rows.labels), 1)
    return table


def _farthest(counts: Int[np.ndarray, "splits shares labels"]) -> float:
    """Return the largest total variation between what a share trains on and what it is judged by."""
    mixes = counts / counts.sum(axis=2, keepdims=True)
    return float(np.abs(mixes[1:] - mixes[0]).sum(axis=2).max() / 2)


def _check_scheme(rows: _Rows, sharing: Sharing) -> None:
    """Refuse what no draw could do."""
    labels, ids = len(np.unique(rows.labels)), len(set(rows.ids))
    if sharing.scheme == "natural-id" and ids < sharing.count:
        found = f"has {ids} values" if ids else "names no column of the file"
        raise DataError(
            f"data.partition = 'natural-id' for {sharing.count} clients, and data.id {found}; name a column with as"
            " many values as clients, or use fewer clients",
            refusal="fewer ids than shares",
        )
    if sharing.scheme == "pathological" and not labels / sharing.count <= sharing.labels_per_client <= labels:
        raise DataError(
            f"data.partition = 'pathological': {sharing.count} clients of data.labels-per-client ="
            f" {sharing.labels_per_client} cannot hold {labels} labels, each once or more; set data.labels-per-client"
            f" to {-(-labels // sharing.count)} to {labels}",
            refusal="other labels than data.labels-per-client can share out",
        )


def _too_few(sharing: Sharing, smallest: int) -> DataError:
    draws = f"in each of {DRAWS} draws" if sharing.scheme in RANDOM else "there"
    remedies = ["use fewer clients", *([REMEDIES[sharing.scheme]] if sharing.scheme in REMEDIES else [])]
    if smallest:
        remedies.insert(0, f"set data.min-examples = {smallest}")
    return DataError(
        f"data.partition = {sharing.scheme!r} for {sharing.count} clients: {draws} one has fewer than"
        f" data.min-examples = {sharing.min_examples} training rows, or none to validate or to test on;"
        f" {', or '.join(remedies)}",
        refusal="too few rows for so many shares",
    )


def _draws(rows: _Rows, sharing: Sharing) -> Iterator[Int[np.ndarray, "rows"] | None]:
    """Yield the share of each row, of one draw after the other; None for a draw that leaves rows or shares out."""
    if sharing.scheme == "iid":
        yield _dealt(rows, sharing)
    elif sharing.scheme == "natural-id":
        yield _by_id(rows, sharing.count)
    else:
        yield from _partitioned(rows, sharing)


def _dealt(rows: _Rows, sharing: Sharing) -> Int[np.ndarray, "rows"]:
    """Deal rows in turn, split by split and label by label: each share has as many of each, to one row."""
    order = np.lexsort((np.random.default_rng(sharing.seed).random(len(rows.labels)), rows.labels, rows.parts))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) % sharing.count
    return places


def _by_id(rows: _Rows, count: int) -> Int[np.ndarray, "rows"]:
    names, members, sizes = np.unique(np.array(rows.ids), return_inverse=True, return_counts=True)
    held, owner = np.zeros(count, dtype=np.int64), np.empty(len(names), dtype=np.int64)
    for each in np.argsort(-sizes, kind="stable"):
        owner[each] = held.argmin()
        held[owner[each]] += sizes[each]
    return owner[members]


def _partitioned(rows: _Rows, sharing: Sharing) -> Iterator[Int[np.ndarray, "rows"] | None]:
    """Share out rows by a partitioner, drawn again and again where it is a random one."""
    labels = rows.labels
    order = _alternating(rows, np.random.default_rng(sharing.seed))
    for draw in range(DRAWS if sharing.scheme in RANDOM else 1):
        found = PARTITIONERS[sharing.scheme](labels[order], sharing, np.random.default_rng([sharing.seed, draw]))
        if found is None:
            yield None
            continue
        places = np.empty_like(found)
        places[order] = found
        yield places


def _alternating(rows: _Rows, generator: np.random.Generator) -> Int[np.ndarray, "rows"]:
    """Order rows so that each run of them, and each run of one label, has the splits in the file's proportions."""
    drawn = generator.random(len(rows.labels))
    parts, labels = rows.parts, rows.labels
    order = np.lexsort((drawn, labels, parts))
    strata = np.stack([parts[order], labels[order]])
    _, starts, sizes = np.unique(strata, axis=1, return_index=True, return_counts=True)
    ranks = np.arange(len(order)) - np.repeat(starts, sizes)
    positions = np.empty(len(order))
    positions[order] = (ranks + 0.5) / np.repeat(sizes, sizes)
    return np.lexsort((drawn, positions))
