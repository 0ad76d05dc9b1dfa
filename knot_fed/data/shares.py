"""Which rows of a file go to which of the virtual clients that share it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from knot_fed.errors import DataError
from knot_fed.types import SplitExamples

DRAWS = 300
"""How often a random partition is drawn before it is refused."""
FAR = 0.5
"""Total variation between two splits of a share beyond which another draw is tried."""
RANDOM = ("dirichlet", "pathological", "shard")
REMEDIES = {
    "dirichlet": "raise data.alpha",
    "pathological": "raise data.labels-per-client",
    "shard": "change data.labels-per-client",
}


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a file is shared.

    Parameters
    ----------
    scheme
        `iid`: dealt in turn. `natural-id`: all rows of one id together, the largest first, each to whoever has the
        fewest rows. `dirichlet`, `pathological`, `shard`, `exponential`: as the partitioners of flwr-datasets.
    count
        Number of shares.
    seed
        Of the assignment; every client draws the same one.
    alpha
        Concentration of `dirichlet`, > 0; smaller is more uneven.
    labels_per_client
        Labels of each share under `pathological`; runs of rows sorted by label under `shard`.
    min_examples
        Fewest training rows of a share; a random scheme is drawn again until each has them.
    """

    scheme: str
    count: int
    seed: int
    alpha: float = 0.5
    labels_per_client: int = 2
    min_examples: int = 10


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """The share of each row, by split, and how many draws it took."""

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


def share_rows(examples: SplitExamples, sharing: Sharing) -> Shares:
    """Draw once for the whole file who gets which rows, each row to one share, and each in the split that it has.

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
    parts = {"train": examples.train, "val": examples.val, "test": examples.test}
    sizes = tuple(len(part) for part in parts.values())
    labels = np.concatenate([part.labels for part in parts.values()], dtype=np.int64).tobytes()
    rows = _Rows(sizes, labels, tuple(each for part in parts.values() for each in part.ids))
    _check_scheme(rows, sharing)
    places, told = _first_fair(rows, sharing)
    if places is None:
        raise _too_few(sharing, told)
    return Shares(dict(zip(parts, np.split(places, np.cumsum(sizes)[:-1]), strict=True)), told)


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
    """Share out rows as the partitioners of flwr-datasets do, to the same rows for the same order and generator.

    Those take seconds for files of a few thousand rows, and leave some rows to nobody.
    """
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


def by_dirichlet(
    labels: Int[np.ndarray, "rows"], sharing: Sharing, generator: np.random.Generator
) -> Int[np.ndarray, "rows"]:
    """Cut the rows of each label by proportions from a Dirichlet distribution (Hsu et al. 2019)."""
    places = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        proportions = generator.dirichlet(np.full(sharing.count, sharing.alpha))
        ends = (np.cumsum(proportions) * len(rows)).astype(np.int64)[:-1]
        places[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right")
    return places


def by_labels(
    labels: Int[np.ndarray, "rows"], sharing: Sharing, generator: np.random.Generator
) -> Int[np.ndarray, "rows"] | None:
    """Give each share so many labels, the first in turn, and cut each label evenly; None where one has no taker."""
    names, places = np.unique(labels), np.empty(len(labels), dtype=np.int64)
    held = [[names[share % len(names)]] for share in range(sharing.count)]
    for own in held:
        while len(own) < sharing.labels_per_client:
            drawn = generator.choice(names, size=1)[0]
            own += [drawn] if drawn not in own else []
    for label in names:
        takers = [share for share, own in enumerate(held) if label in own]
        if not takers:
            return None
        for share, rows in zip(takers, np.array_split(np.flatnonzero(labels == label), len(takers)), strict=True):
            places[rows] = share
    return places


def by_runs(
    labels: Int[np.ndarray, "rows"], sharing: Sharing, generator: np.random.Generator
) -> Int[np.ndarray, "rows"] | None:
    """Cut rows sorted by label in equal runs and deal these (McMahan et al. 2017); what is left joins the run before.

    None where there are more runs than rows.
    """
    runs = sharing.count * sharing.labels_per_client
    size = len(labels) // runs
    if not size:
        return None
    owners = np.full(len(labels) // size, -1, dtype=np.int64)
    owners[generator.permutation(len(owners))[:runs]] = np.arange(runs) // sharing.labels_per_client
    given = np.flatnonzero(owners >= 0)
    run = np.minimum(np.arange(len(labels)) // size, len(owners) - 1)
    before = given[np.maximum(np.searchsorted(given, run, side="right") - 1, 0)]
    places = np.empty(len(labels), dtype=np.int64)
    places[np.argsort(labels, kind="stable")] = owners[before]
    return places


def by_size(labels: Int[np.ndarray, "rows"], sharing: Sharing, _: np.random.Generator) -> Int[np.ndarray, "rows"]:
    """Cut rows in order, each share e times as large as the one before; what is left joins the last."""
    units = np.exp(np.arange(sharing.count) - sharing.count + 1.0)
    sizes = (units / units.sum() * len(labels)).astype(np.int64)
    sizes[-1] += len(labels) - sizes.sum()
    return np.repeat(np.arange(sharing.count), sizes)


PARTITIONERS = {"dirichlet": by_dirichlet, "pathological": by_labels, "shard": by_runs, "exponential": by_size}


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
