"""Which rows of a file go to which of the virtual clients that share it."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from knot_fed.errors import DataError
from knot_fed.types import SplitExamples

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

DRAWS = 100
"""How often a random partition is drawn before it is refused."""
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
        fewest rows. `dirichlet`, `pathological`, `shard`, `exponential`: the partitioners of flwr-datasets.
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
    """Return the first draw in which all have enough, and its number; or none, and the best of the smallest shares."""
    smallest, parts = 0, rows.parts
    for draw, places in enumerate(_draws(rows, sharing), start=1):
        if places is None:
            continue
        train, *held_out = (np.bincount(places[parts == part], minlength=sharing.count) for part in range(3))
        if np.all(held_out):
            smallest = max(smallest, int(train.min()))
            if train.min() >= sharing.min_examples:
                return places, draw
    return None, smallest


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
    """Let a partitioner of flwr-datasets share out the rows."""
    from datasets import Dataset  # slow to load, and needed only where clients share a file

    generator, labels = np.random.default_rng(sharing.seed), rows.labels
    order = _alternating(rows, generator)
    dataset = Dataset.from_dict({"row": order.tolist(), "label": labels[order].tolist()})
    for _ in range(DRAWS if sharing.scheme in RANDOM else 1):
        partitioner = _partitioner(sharing, seed=int(generator.integers(2**32)))
        partitioner.dataset = dataset
        places = np.full(len(order), -1, dtype=np.int64)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of labels left out, which are looked for below
                for share in range(sharing.count):
                    places[np.asarray(partitioner.load_partition(share)["row"], dtype=np.int64)] = share
        except ValueError:  # a share would be empty
            yield None
            continue
        if sharing.scheme == "shard":
            _give_rest(places, order[np.argsort(labels[order], kind="stable")])
        yield None if (places < 0).any() else places


def _partitioner(sharing: Sharing, *, seed: int) -> "Partitioner":
    from flwr_datasets import partitioner as flower

    count, each = sharing.count, sharing.labels_per_client
    by_label: dict[str, Any] = {"num_partitions": count, "partition_by": "label", "shuffle": False, "seed": seed}
    if sharing.scheme == "dirichlet":
        return flower.DirichletPartitioner(alpha=sharing.alpha, min_partition_size=0, **by_label)
    if sharing.scheme == "pathological":
        mode: Any = "first-deterministic"  # so that no label is left out where there are as many clients
        return flower.PathologicalPartitioner(num_classes_per_partition=each, class_assignment_mode=mode, **by_label)
    if sharing.scheme == "shard":
        return flower.ShardPartitioner(num_shards_per_partition=each, **by_label)
    return flower.ExponentialPartitioner(num_partitions=count)


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


def _give_rest(places: Int[np.ndarray, "rows"], by_label: Int[np.ndarray, "rows"]) -> None:
    """Give the rows at the end of the last label, fewer than there are runs, to whoever has the run before them."""
    rest = places[by_label] < 0
    places[by_label[rest]] = places[by_label[~rest][-1]]
