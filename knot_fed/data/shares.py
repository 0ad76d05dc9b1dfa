"""Division of a file's rows among the virtual clients that share it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from knot_fed.data.partitioners import PARTITIONERS, Sharing
from knot_fed.data.private import PARTS, join_texts
from knot_fed.errors import DataError
from knot_fed.types import SplitExamples, Text

DRAWS = 300
"""Draws of a random partition before it is refused."""
PATTERN = (0, 0, 0, 0, 2, 0, 0, 1, 0, 2)
"""Splits of successive records in `cut_evenly`: 70 % train (0), 10 % validation (1), 20 % test (2)."""
FAR, MORE_DRAWS = 0.5, 30
"""Total variation between two splits of a share above which more draws are tried, and their number."""
RANDOM = ("dirichlet", "pathological", "shard")
REMEDIES = {
    "dirichlet": "raise data.alpha",
    "pathological": "raise data.labels-per-client",
    "shard": "change data.labels-per-client",
}


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """The share of each row of a file, by split, and the number of draws."""

    examples: SplitExamples
    places: dict[str, Int[np.ndarray, "rows"]]
    draws: int


@dataclass(frozen=True, slots=True)
class _Rows:
    """Hashable sizes of the splits, and labels and ids of the rows, ordered by split."""

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
    """Split the whole file 70/10/20 within each label (and id, with `by_id`), so that small shares have all splits.

    Equal records stay in one split. `read_labelled_texts` cuts by a hash of each record, so that one more record of an
    owner moves no other. Shares of a study have no owner, and for few rows that cut is uneven.
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


@lru_cache(maxsize=8)
def share_rows(examples: SplitExamples, sharing: Sharing) -> Shares:
    """Assign each row of a file to one share; rows keep their split, and a file without splits goes to `cut_evenly`.

    The splits of a share have the same mix of labels as far as the file allows, to one row per label: rows are ordered
    so that splits and labels alternate evenly, and shares are runs of this order. The division of the same object is
    kept for the next client of this process. Raises `DataError` if a share has too few rows in every draw, or the
    scheme does not fit the file.
    """
    if examples.cut:
        examples = cut_evenly(examples, seed=sharing.seed, by_id=sharing.scheme == "natural-id")
    sizes = (len(examples.train), len(examples.val), len(examples.test))
    whole = join_texts([examples.train, examples.val, examples.test])
    rows = _Rows(sizes, whole.labels.astype(np.int64).tobytes(), whole.ids)
    _check_scheme(rows, sharing)
    places, draws = _first_fair(rows, sharing)
    if places is None:
        raise _too_few(sharing, smallest=draws)
    return Shares(examples, dict(zip(PARTS, np.split(places, np.cumsum(sizes)[:-1]), strict=True)), draws)


@lru_cache(maxsize=8)
def _first_fair(rows: _Rows, sharing: Sharing) -> tuple[Int[np.ndarray, "rows"] | None, int]:
    """Return the first draw with enough rows in every share, and its number; or None, and the best smallest share.

    A draw in which the splits of every share have similar label mixes is preferred.
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
    """Return the largest total variation between the label mixes of a share's training rows and its other splits."""
    mixes = counts / counts.sum(axis=2, keepdims=True)
    return float(np.abs(mixes[1:] - mixes[0]).sum(axis=2).max() / 2)


def _check_scheme(rows: _Rows, sharing: Sharing) -> None:
    """Refuse a scheme that no draw can satisfy."""
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


def _too_few(sharing: Sharing, *, smallest: int) -> DataError:
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
    """Yield the share of each row, draw by draw; None for a draw that leaves out rows or shares."""
    if sharing.scheme == "iid":
        yield _dealt(rows, sharing)
    elif sharing.scheme == "natural-id":
        yield _by_id(rows, sharing.count)
    else:
        order = _alternating(rows, np.random.default_rng(sharing.seed))
        for draw in range(DRAWS if sharing.scheme in RANDOM else 1):
            generator = np.random.default_rng([sharing.seed, draw])
            found = PARTITIONERS[sharing.scheme](rows.labels[order], sharing, generator)
            yield None if found is None else found[np.argsort(order)]


def _dealt(rows: _Rows, sharing: Sharing) -> Int[np.ndarray, "rows"]:
    """Deal rows in turn, split by split and label by label, so that shares differ by at most one row of each."""
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


def _alternating(rows: _Rows, generator: np.random.Generator) -> Int[np.ndarray, "rows"]:
    """Order rows so that each run, and each run of one label, has the splits in the file's proportions."""
    drawn = generator.random(len(rows.labels))
    parts, labels = rows.parts, rows.labels
    order = np.lexsort((drawn, labels, parts))
    strata = np.stack([parts[order], labels[order]])
    _, starts, sizes = np.unique(strata, axis=1, return_index=True, return_counts=True)
    ranks = np.arange(len(order)) - np.repeat(starts, sizes)
    positions = np.empty(len(order))
    positions[order] = (ranks + 0.5) / np.repeat(sizes, sizes)
    return np.lexsort((drawn, positions))
