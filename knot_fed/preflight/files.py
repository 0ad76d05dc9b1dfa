"""The data files of a run, read before it starts: rules that they break, and clients that they are too small for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import psutil

from knot_fed.config import DataConfig, LabelsConfig, RunConfig
from knot_fed.data.private import Columns, read_labelled_texts, seed_key
from knot_fed.data.reading.files import data_path, is_local
from knot_fed.data.transfer_set import check_rounds, read_transfer_set
from knot_fed.errors import ConfigError
from knot_fed.preflight.shares import FileSize, check_shares
from knot_fed.types import Text

SAMPLE = 20
"""Transfer texts that a run's models are tried on."""
BYTES_OF_ANSWER = 24
"""What the server needs for one number of one answer: as received, kept for a resumed run, and in double precision."""


@dataclass(frozen=True, slots=True)
class FileSizes:
    """The labelled files by name, distinct transfer texts, and the first of them; without those of the hub.

    `notes` are sentences on how files are read, each with the names of all that are read so.
    """

    labelled: Mapping[str, FileSize]
    transfer: int | None
    notes: tuple[str, ...]
    sample: tuple[Text, ...] = ()


def check_files(config: RunConfig, *, clients: int) -> tuple[tuple[Text, ...], list[str]]:
    """Read every file of this machine, and refuse more clients than they or the memory are enough for.

    Returns
    -------
    sample
        The first transfer texts; none where they are the hub's.
    notes
        What the user should know of how files are read and shared, in sentences.

    Raises
    ------
    DataError
        If a file is not there, or breaks a rule.
    ConfigError
        If there are too many clients or rounds.
    """
    sizes = _read_files(config.data, config.task, config.labels)
    notes = [*sizes.notes, *check_shares(config, sizes.labelled, clients=clients)]
    if sizes.transfer is None:
        return (), notes
    check_rounds(sizes.transfer, config.rounds, name=config.data.transfer)
    _check_memory(clients, texts=sizes.transfer, labels=len(config.label_space()))
    return sizes.sample, notes


@lru_cache(maxsize=16)
def _read_files(data: DataConfig, task: str, labels: LabelsConfig) -> FileSizes:
    """Read each file, once for all cells of a sweep."""
    space = RunConfig(task=task, labels=labels).label_space()
    columns = Columns.from_settings(data)
    paths = {name: data_path(data.root, name) for name in (*data.client_names, data.public, data.transfer)}
    sizes: dict[str, FileSize] = {}
    told: dict[str, list[str]] = {}

    def tell(name: str, sentence: str) -> None:
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
                tell=tell,
            )
            sizes[name] = FileSize(
                len(read.train), len(read.val), len(read.test), read.cut, labels=len(np.unique(read.train.labels))
            )
    texts: tuple[Text, ...] | None = None
    if is_local(paths[data.transfer]):
        texts = read_transfer_set(paths[data.transfer], columns=columns, limit=data.limit, tell=tell).texts
    notes = tuple(f"{', '.join(dict.fromkeys(names))}: {sentence}" for sentence, names in told.items())
    if texts is None:
        return FileSizes(sizes, None, notes)
    return FileSizes(sizes, len(texts), notes, texts[:SAMPLE])


def _check_memory(clients: int, *, texts: int, labels: int) -> None:
    each, free = texts * (labels + 1) * BYTES_OF_ANSWER, psutil.virtual_memory().available
    if clients * each > free:
        raise ConfigError(
            f"--num-supernodes {clients}: their soft labels of {texts} texts take about {clients * each / 1e9:.1f} GB,"
            f" and {free / 1e9:.1f} GB are free; use {free // each} clients at most, or fewer texts (data.limit)"
        )
