"""The data files of a run, read before it starts: rules that they break, and clients that they are too small for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import psutil

from knot_fed.config import DataConfig, LabelsConfig, RunConfig
from knot_fed.data.files import data_path, is_local
from knot_fed.data.partition import MIN_TRAIN
from knot_fed.data.private import Columns, read_labelled_texts, seed_key
from knot_fed.data.transfer_set import read_transfer_set
from knot_fed.errors import ConfigError

LEAST_TRANSFER_TEXTS = 2
"""Of each round: one to learn from, one to judge by."""
BYTES_OF_ANSWER = 24
"""What the server needs for one number of one answer: as received, kept for a resumed run, and in double precision."""


@dataclass(frozen=True, slots=True)
class FileSizes:
    """Training and validation rows of each private file, and distinct transfer texts; without those of the hub.

    `notes` are sentences on how files are read, each with the names of all that are read so.
    """

    private: Mapping[str, tuple[int, int]]
    transfer: int | None
    notes: tuple[str, ...]


def check_files(config: RunConfig, *, clients: int) -> tuple[str, ...]:
    """Read every file of this machine, and refuse more clients than they or the memory are enough for.

    Returns
    -------
    notes
        Sentences on how files are read, where one might think otherwise.

    Raises
    ------
    DataError
        If a file is not there, or breaks a rule.
    ConfigError
        If there are too many clients or rounds.
    """
    sizes = _read_files(config.data, config.task, config.labels)
    _check_shares(config.data.client_names, sizes, clients)
    if sizes.transfer is None:
        return sizes.notes
    if sizes.transfer < LEAST_TRANSFER_TEXTS * config.rounds:
        raise ConfigError(
            f"{config.data.transfer}: {sizes.transfer} distinct transfer text(s) for {config.rounds} round(s); give"
            f" {LEAST_TRANSFER_TEXTS} or more for each round"
        )
    _check_memory(clients, texts=sizes.transfer, labels=len(config.label_space()))
    return sizes.notes


@lru_cache(maxsize=16)
def _read_files(data: DataConfig, task: str, labels: LabelsConfig) -> FileSizes:
    """Read each file, once for all cells of a sweep."""
    space = RunConfig(task=task, labels=labels).label_space()
    columns = Columns.from_settings(data)
    paths = {name: data_path(data.root, name) for name in (*data.client_names, data.public, data.transfer)}
    sizes: dict[str, tuple[int, int]] = {}
    told: dict[str, list[str]] = {}

    def tell(name: str, sentence: str) -> None:
        told.setdefault(sentence, []).append(name)

    for name in (*data.client_names, data.public):
        if is_local(paths[name]):
            read = read_labelled_texts(
                paths[name], columns=columns, labels=space, key=seed_key(1), limit=data.limit, tell=tell
            )
            sizes[name] = len(read.train), len(read.val)
    distinct = None
    if is_local(paths[data.transfer]):
        distinct = len(read_transfer_set(paths[data.transfer], columns=columns, limit=data.limit, tell=tell))
    notes = tuple(f"{', '.join(dict.fromkeys(names))}: {sentence}" for sentence, names in told.items())
    return FileSizes(sizes, distinct, notes)


def _check_shares(names: tuple[str, ...], sizes: FileSizes, clients: int) -> None:
    """Refuse, by arithmetic, more clients than a file that they share can be cut for."""
    for place, name in enumerate(names):
        count = len(range(place, clients, len(names)))
        if count < 2 or name not in sizes.private:
            continue
        train, val = sizes.private[name]
        most = min(train // MIN_TRAIN, val)
        if count > most:
            raise ConfigError(
                f"--num-supernodes {clients}: {count} clients share {name}, and its {train} training and {val}"
                f" validation rows are enough for {most}; use {most * len(names)} at most, or a file with more rows"
            )


def _check_memory(clients: int, *, texts: int, labels: int) -> None:
    each, free = texts * (labels + 1) * BYTES_OF_ANSWER, psutil.virtual_memory().available
    if clients * each > free:
        raise ConfigError(
            f"--num-supernodes {clients}: their soft labels of {texts} texts take about {clients * each / 1e9:.1f} GB,"
            f" and {free / 1e9:.1f} GB are free; use {free // each} clients at most, or fewer texts (data.limit)"
        )
