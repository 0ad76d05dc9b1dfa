"""The partitioners of flwr-datasets on label arrays, with the same rows for the same order and generator.

The originals take seconds for a few thousand rows, and some leave rows unassigned.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a file is divided into shares.

    Parameters
    ----------
    scheme
        `iid`: rows are dealt in turn. `natural-id`: rows with the same id stay together; the largest groups are
        assigned first, each to the share with the fewest rows. `dirichlet`, `pathological`, `shard`, `exponential`: as
        in flwr-datasets.
    count
        Number of shares.
    seed
        Seed of the assignment, the same for every client.
    alpha
        Concentration of `dirichlet`, > 0; a smaller value is more uneven.
    labels_per_client
        Labels per share under `pathological`; runs of rows sorted by label under `shard`.
    min_examples
        Fewest training rows per share; a random scheme is redrawn until every share has them.
    """

    scheme: str
    count: int
    seed: int
    alpha: float = 0.5
    labels_per_client: int = 2
    min_examples: int = 10


def by_dirichlet(
    labels: Int[np.ndarray, "rows"], sharing: Sharing, generator: np.random.Generator
) -> Int[np.ndarray, "rows"]:
    """Divide the rows of each label by proportions from a Dirichlet distribution (Hsu et al. 2019)."""
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
    """Assign labels to shares, the first in turn, and divide each label evenly; None if a label is left over."""
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
    """Cut rows sorted by label into equal runs and deal them out (McMahan et al. 2017); None if there are too few rows.

    Remaining rows join the preceding run.
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
    """Cut rows in order, each share e times as large as the previous one; the last also gets the remainder."""
    units = np.exp(np.arange(sharing.count) - sharing.count + 1.0)
    sizes = (units / units.sum() * len(labels)).astype(np.int64)
    sizes[-1] += len(labels) - sizes.sum()
    return np.repeat(np.arange(sharing.count), sizes)


PARTITIONERS = {"dirichlet": by_dirichlet, "pathological": by_labels, "shard": by_runs, "exponential": by_size}
