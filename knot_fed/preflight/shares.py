"""Checks that every virtual client gets enough rows of its file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from knot_fed.config import DataConfig, LabelsConfig, RunConfig
from knot_fed.data.partition import client_name
from knot_fed.data.partitioners import Sharing
from knot_fed.data.private import Columns, read_labelled_texts, seed_key
from knot_fed.data.reading.files import data_path
from knot_fed.data.shares import share_rows
from knot_fed.errors import ConfigError, DataError
from knot_fed.models import ONE_LABEL

MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class FileSize:
    """Rows of each split of a labelled file, whether the splits were cut here, and the number of training labels."""

    train: int
    val: int
    test: int
    cut: bool
    labels: int

    @property
    def to_share(self) -> tuple[int, int, int]:
        """Rows of each split that shares can be made of."""
        rows = self.train + self.val + self.test
        return (rows * 7 // 10, rows // 10, rows // 5) if self.cut else (self.train, self.val, self.test)


def check_shares(config: RunConfig, sizes: Mapping[str, FileSize], *, clients: int) -> list[str]:
    """Refuse more virtual clients than the local files, given by `sizes`, have rows for.

    Returns notes on repeated draws, clients whose training rows have one label, and a delta that is too large. Raises
    `ConfigError` if the rows cannot suffice, and `DataError` if no draw gives each client enough.
    """
    data, names = config.data, config.data.client_names
    notes, single = [], []
    for place, name in enumerate(names[:clients]):
        count, held = len(range(place, clients, len(names))), names[place::clients]
        if not all(file in sizes for file in held):
            continue
        if count == 1:
            single += [client_name(name)] if len(held) == 1 and sizes[name].labels == 1 else []
            continue
        _check_count(name, sizes[name], data, clients=clients, count=count)
        draws, of_one_label = _drawn(data, config.task, config.labels, config.seed, name, count)
        single += [f"{client_name(name)}-{share}" for share in of_one_label]
        if draws > 1:
            notes.append(
                f"{name}: the {draws - 1} draw(s) of data.partition = {data.partition!r} before the one taken left a"
                f" client fewer than data.min-examples = {data.min_examples} training rows, none to judge by, or splits"
                " of other mixes"
            )
    rows = [(size.train, name) for name, size in sizes.items() if name in names]
    if config.privacy.facts.has_guarantee and rows and config.privacy.delta * max(rows)[0] >= 1:
        notes.append(
            f"privacy.delta = {config.privacy.delta:g} is not below one over the {max(rows)[0]} training rows of"
            f" {max(rows)[1]}: at such a delta the guarantee allows a record to be published as it is"
        )
    if single:
        told = ", ".join(single[:MOST_NAMED]) + (f" and {len(single) - MOST_NAMED} more" * (len(single) > MOST_NAMED))
        notes.append(f"{told}: training rows of one label; {ONE_LABEL}")
    return notes


def _check_count(name: str, size: FileSize, data: DataConfig, *, clients: int, count: int) -> None:
    """Refuse more clients than a file has rows for."""
    train, val, test = size.to_share
    most = min(train // data.min_examples, val, test)
    if count > most:
        use = f"use {most * len(data.client_names)} at most" if most else "use one for each file"
        raise ConfigError(
            f"--num-supernodes {clients}: {count} clients share {name}, and its {train} training, {val}"
            f" validation and {test} test rows are enough for {most}, at data.min-examples = {data.min_examples}"
            f" each; {use}, a file with more rows, or lower data.min-examples"
        )


@lru_cache(maxsize=256)
def _drawn(
    data: DataConfig, task: str, labels: LabelsConfig, seed: int, name: str, count: int
) -> tuple[int, tuple[int, ...]]:
    """Divide a file as the run will; return the number of draws, and the shares with one label."""
    examples = read_labelled_texts(
        data_path(data.root, name),
        columns=replace(Columns.from_settings(data), id=data.id_column),
        labels=RunConfig(task=task, labels=labels).label_space(),
        key=seed_key(seed),
        limit=data.limit,
    )
    sharing = Sharing(data.partition, count, seed, data.alpha, data.labels_per_client, data.min_examples)
    try:
        shares = share_rows(examples, sharing)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    held = np.unique(np.stack([shares.places["train"], shares.examples.train.labels]), axis=1)[0]
    return shares.draws, tuple(np.flatnonzero(np.bincount(held, minlength=count) == 1).tolist())
