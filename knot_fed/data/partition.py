"""Which virtual client holds which file, or which share of one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knot_fed.data.partitioners import Sharing
from knot_fed.data.reading.files import errors_about
from knot_fed.data.shares import share_rows
from knot_fed.errors import ConfigError
from knot_fed.types import SplitExamples

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
    examples: SplitExamples,
    *,
    index: int,
    count: int,
    scheme: str,
    alpha: float = 0.5,
    seed: int,
    labels_per_client: int = 2,
    min_examples: int = 10,
) -> tuple[SplitExamples, dict[str, list[int]]]:
    """Take one of several shares of a file; where there is one only, it is the whole file as it is.

    Parameters
    ----------
    examples
        All examples of the file.
    index, count
        Which of how many shares.
    scheme, alpha, seed, labels_per_client, min_examples
        As in `Sharing`.

    Returns
    -------
    share
        The examples of this share.
    assignment
        Row positions by split; of a file without splits, those of `cut_evenly`.

    Raises
    ------
    DataError
        As `share_rows`.
    """
    if count == 1:
        return examples, {part: list(range(len(getattr(examples, part)))) for part in ("train", "val", "test")}
    shares = share_rows(examples, Sharing(scheme, count, seed, alpha, labels_per_client, min_examples))
    rows = {part: np.flatnonzero(places == index) for part, places in shares.places.items()}
    share = SplitExamples(**{part: getattr(shares.examples, part).select(chosen) for part, chosen in rows.items()})
    return share, {part: chosen.tolist() for part, chosen in rows.items()}
