"""Assignment of files, or shares of them, to virtual clients."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knot_fed.data.partitioners import Sharing
from knot_fed.data.private import PARTS
from knot_fed.data.reading.files import error_role
from knot_fed.data.shares import share_rows
from knot_fed.errors import ConfigError
from knot_fed.types import SplitExamples

LONGEST_CLIENT_NAME = 64
CLIENT_NAME = re.compile(rf"(?=.*[^.])[A-Za-z0-9._-]{{1,{LONGEST_CLIENT_NAME}}}")
"""Valid client names, which become file names."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The files of one virtual client, and the index and number of shares if several clients share a file."""

    name: str
    files: tuple[str, ...]
    index: int
    count: int


def client_shard(index: int, total: int, files: Sequence[str]) -> Shard:
    """Assign virtual clients to files in turn, or files to clients if there are fewer clients than files.

    A client is named after its file: `<file>-<k>` if several clients share it, `<file>-and-<file>` if it has several.

    Parameters
    ----------
    index, total
        Number of the virtual client, from 0, and how many there are.
    files
        Names of the private files.

    Raises
    ------
    ConfigError
        If `files` is empty.

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
        names = [client_name(file) for file in held]
        joined = "-and-".join(names)
        if len(joined) > LONGEST_CLIENT_NAME:
            joined = f"{names[0]}-and-{len(names) - 1}-more"
        return Shard(joined, held, 0, 1)
    place = index % len(files)
    count = len(range(place, total, len(files)))
    name = client_name(files[place])
    return Shard(name if count == 1 else f"{name}-{index // len(files)}", (files[place],), index // len(files), count)


def client_name(file: str) -> str:
    """Return the name of the client that owns a file."""
    return file.rpartition("/")[2].removeprefix("hub:").replace(":", "-")


@error_role("the private file")
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
    """Return one of `count` shares of a file, and its row positions by split; a single share is the whole file.

    Row positions of a file without splits refer to the splits of `cut_evenly`. `scheme` and the following parameters
    are those of `Sharing`.

    Raises
    ------
    DataError
        As `share_rows`.
    """
    if count == 1:
        return examples, {part: list(range(len(getattr(examples, part)))) for part in PARTS}
    shares = share_rows(examples, Sharing(scheme, count, seed, alpha, labels_per_client, min_examples))
    rows = {part: np.flatnonzero(places == index) for part, places in shares.places.items()}
    share = SplitExamples(**{part: getattr(shares.examples, part).select(chosen) for part, chosen in rows.items()})
    return share, {part: chosen.tolist() for part, chosen in rows.items()}
