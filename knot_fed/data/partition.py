"""Which virtual client holds which file, or which share of one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from knot_fed.data.files import errors_about
from knot_fed.errors import ConfigError, DataError
from knot_fed.types import SplitExamples

MIN_TRAIN = 2
LONGEST_CLIENT_NAME = 64
CLIENT_NAME = re.compile(rf"(?=.*[^.])[A-Za-z0-9._-]{{1,{LONGEST_CLIENT_NAME}}}")
"""What a client may be called: it becomes the name of a file."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One virtual client's place: its files, and which of how many shares of them."""

    name: str
    files: tuple[str, ...]
    index: int
    count: int


def client_shard(index: int, total: int, files: Sequence[str]) -> Shard:
    """Deal virtual clients over files in turn, or files over clients where there are fewer of these.

    A client is called like its file: `<file>-<k>` where several share one, `<file>-and-<file>` where it holds several.

    Parameters
    ----------
    index
        The virtual client's number, from 0.
    total
        Number of virtual clients.
    files
        Names of the private files.

    Raises
    ------
    ConfigError
        If there is no file.

    Examples
    --------
    >>> client_shard(4, 5, ["product", "tweets", "nyt"])
    Shard(name='tweets-1', files=('tweets',), index=1, count=2)
    >>> client_shard(0, 2, ["product", "tweets", "nyt"]).name
    'product-and-nyt'
    """
    if not files:
        raise ConfigError("data.clients names no file; name the private files, with commas")
    if total < len(files):
        held = tuple(files[place] for place in range(index, len(files), total))
        return Shard(_joined([client_name(file) for file in held]), held, 0, 1)
    place = index % len(files)
    count = len(range(place, total, len(files)))
    name = client_name(files[place])
    return Shard(name if count == 1 else f"{name}-{index // len(files)}", (files[place],), index // len(files), count)


def client_name(file: str) -> str:
    """Return what the owner of a file is called."""
    return file.rpartition("/")[2].removeprefix("hub:").replace(":", "-")


def _joined(names: Sequence[str]) -> str:
    """Name a client of several files, as short as a client's name has to be."""
    whole = "-and-".join(names)
    return whole if len(whole) <= LONGEST_CLIENT_NAME else f"{names[0]}-and-{len(names) - 1}-more"


@errors_about("the private file")
def split_examples(
    examples: SplitExamples, *, index: int, count: int, scheme: str, alpha: float, seed: int
) -> tuple[SplitExamples, dict[str, list[int]]]:
    """Take one of several shares of an owner's examples.

    Parameters
    ----------
    examples
        All examples of the file.
    index, count
        Which of how many shares.
    scheme
        `iid`, or `dirichlet` over the labels.
    alpha
        Concentration of the Dirichlet distribution, > 0; smaller is more uneven.
    seed
        Of the assignment; every client draws the same one.

    Returns
    -------
    share
        The examples of this share.
    assignment
        Row positions by split.

    Raises
    ------
    DataError
        If the share has fewer than two classes to train on.
    """
    parts = {"train": examples.train, "val": examples.val, "test": examples.test}
    rows = {
        part: np.arange(len(owned)) if count == 1 else _rows(owned.labels, index, count, scheme, alpha, seed)
        for part, owned in parts.items()
    }
    share = SplitExamples(**{part: owned.select(rows[part]) for part, owned in parts.items()})
    if len(np.unique(share.train.labels)) < MIN_TRAIN or not len(share.val):
        raise DataError(
            f"share {index} of {count}: {len(share.train)} training rows and {len(share.val)} validation rows"
            " with fewer than 2 classes; use fewer clients or a larger data.alpha",
            refusal="fewer than 2 classes to train on, or no rows to validate on",
        )
    return share, {part: chosen.tolist() for part, chosen in rows.items()}


def _rows(
    labels: Int[np.ndarray, "examples"], index: int, count: int, scheme: str, alpha: float, seed: int
) -> Int[np.ndarray, "rows"]:
    from datasets import Dataset  # slow to load, and needed only where clients share a file
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, Partitioner

    order = np.random.default_rng(seed).permutation(len(labels))
    partitioner: Partitioner = IidPartitioner(num_partitions=count)
    if scheme == "dirichlet":
        partitioner = DirichletPartitioner(
            num_partitions=count, partition_by="label", alpha=alpha, min_partition_size=MIN_TRAIN, seed=seed
        )
    partitioner.dataset = Dataset.from_dict({"row": order.tolist(), "label": labels[order].tolist()})
    return np.sort(np.asarray(partitioner.load_partition(index)["row"], dtype=np.int64))
