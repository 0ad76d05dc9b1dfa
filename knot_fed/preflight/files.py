"""Checks of a run's data files: their rows, and whether they suffice for the clients."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import psutil

from knot_fed.config import DataConfig, LabelsConfig, RunConfig
from knot_fed.data.private import Columns, read_labelled_texts, seed_key
from knot_fed.data.reading.files import data_path, is_local
from knot_fed.data.transfer_set import check_rounds, check_sendable, read_transfer_set
from knot_fed.errors import ConfigError
from knot_fed.preflight.shares import FileSize, check_shares
from knot_fed.types import Text

SAMPLE = 20
"""Transfer texts on which a run's models are tried."""
BYTES_OF_ANSWER = 24
"""Server memory per number of an answer: as received, kept for a resumed run, and in double precision."""


def check_files(config: RunConfig, *, clients: int) -> tuple[tuple[Text, ...], list[str]]:
    """Read every local file, and refuse more clients than the files or the memory suffice for.

    Returns the first transfer texts (none if the transfer set is on the hub), and notes on how files are read and
    shared. Raises `DataError` if a file is missing or breaks a rule, and `ConfigError` if there are too many clients or
    rounds.
    """
    sizes, texts, sample, told = _read_files(config.data, config.task, config.labels)
    notes = [*told, *check_shares(config, sizes, clients=clients)]
    if texts is not None:
        check_rounds(texts, config.slices, name=config.data.transfer)
        _check_memory(clients, texts=texts, labels=len(config.label_space()))
    return sample, notes


@lru_cache(maxsize=16)
def _read_files(
    data: DataConfig, task: str, labels: LabelsConfig
) -> tuple[Mapping[str, FileSize], int | None, tuple[Text, ...], tuple[str, ...]]:
    """Return the sizes of local labelled files, the number of local transfer texts, the first of them, and notes.

    Files are read once for all cells of a sweep.
    """
    space = RunConfig(task=task, labels=labels).label_space()
    columns = Columns.from_settings(data)
    paths = {name: data_path(data.root, name) for name in (*data.client_names, data.public, data.transfer)}
    sizes: dict[str, FileSize] = {}
    told: dict[str, list[str]] = {}

    def on_note(name: str, sentence: str) -> None:
        told.setdefault(sentence, []).append(name)

    for name in (*data.client_names, data.public):
        if is_local(paths[name]):
            read = read_labelled_texts(
                paths[name],
                columns=columns,
                labels=space,
                key=seed_key(1),
                limit=data.limit,
                least_classes=2 if name == data.public else 1,
                on_note=on_note,
            )
            sizes[name] = FileSize(
                len(read.train), len(read.val), len(read.test), read.cut, labels=len(np.unique(read.train.labels))
            )
    texts: tuple[Text, ...] | None = None
    if is_local(paths[data.transfer]):
        transfer = read_transfer_set(paths[data.transfer], columns=columns, limit=data.limit, on_note=on_note)
        check_sendable(transfer, name=data.transfer)
        texts = transfer.texts
    notes = tuple(f"{', '.join(dict.fromkeys(names))}: {sentence}" for sentence, names in told.items())
    return sizes, None if texts is None else len(texts), (texts or ())[:SAMPLE], notes


def _check_memory(clients: int, *, texts: int, labels: int) -> None:
    each, free = texts * (labels + 1) * BYTES_OF_ANSWER, psutil.virtual_memory().available
    if clients * each > free:
        raise ConfigError(
            f"--num-supernodes {clients}: their soft labels of {texts} texts take about {clients * each / 1e9:.1f} GB,"
            f" and {free / 1e9:.1f} GB are free; use {free // each} clients at most, or fewer texts (data.limit)"
        )
