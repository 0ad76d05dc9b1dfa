"""What can be refused before anything starts: files that are not there, and names that nothing bears."""

import math

import psutil

from knot_fed.config import RunConfig
from knot_fed.data.files import data_path, is_local
from knot_fed.data.partition import MIN_TRAIN, client_shard
from knot_fed.data.private import Columns, read_labelled_texts, seed_key
from knot_fed.data.transfer_set import read_transfer_set
from knot_fed.errors import ConfigError
from knot_fed.losses import BUILDERS, make_loss
from knot_fed.models import check_model_folder, check_model_name
from knot_fed.privacy.secure_sum import check_threshold, default_threshold

BYTES_OF_ANSWER = 24
"""What the server needs for one number of one answer: as received, kept for a resumed run, and in double precision."""


def check_run(config: RunConfig, *, clients: int) -> None:
    """Refuse a run of virtual clients that could only fail.

    Data sets of the hub and a user's own functions are left to the run: they may be reached from there only.

    Parameters
    ----------
    config
        The run's configuration, with absolute paths.
    clients
        Number of virtual clients.

    Raises
    ------
    ConfigError
        If there are fewer clients than private files, than the run waits for or needs answers of, or than the
        threshold of a secure sum; more than the rows of a file that they share are enough for; or more than the
        server's memory is.
    DataError
        If a private file, the public file or the transfer set is not there; or, where clients share a file, if that
        file or the transfer set breaks a rule.
    LabelSpaceError
        If the task has no labels.
    ModelError
        If there is no model of a name, or a folder that should hold one does not.
    GroundCostError
        If the ground cost is none, or the solver does not apply to it.
    """
    data, models = config.data, config.teacher.models.split(",")
    client_shard(0, clients, data.client_names)
    for key, needed in (("wait-for", config.wait_for), ("min-teachers", config.min_teachers)):
        if needed > clients:
            raise ConfigError(f"run configuration: {key} = {needed}, but there are {clients} clients; lower {key}")
    for name in (*data.client_names, data.public, data.transfer):
        data_path(data.root, name)
    for model in {config.model, config.student_model, *(name.strip() for name in models if name.strip())}:
        check_model_name(model)
        check_model_folder(model)
    config.label_space()
    _check_shares(config, clients)
    if config.privacy.secure_sum:
        asked = max(config.min_teachers, math.ceil(config.fraction * clients))
        check_threshold(config.privacy.threshold or default_threshold(asked), clients=asked)
    if config.distill.loss in BUILDERS:
        make_loss(config)


def _check_shares(config: RunConfig, clients: int) -> None:
    """Refuse, by arithmetic, more clients than a file that they share can be cut for, or than memory is enough for."""
    data, names = config.data, config.data.client_names
    counts = {name: len(range(place, clients, len(names))) for place, name in enumerate(names)}
    shared = {name: count for name, count in counts.items() if count > 1 and is_local(data_path(data.root, name))}
    if not shared:
        return
    fields = ("text", "text_a", "text_b", "label", "split", "separator")
    columns = Columns(**{field: getattr(data, field) for field in fields})
    for name, count in shared.items():
        examples = read_labelled_texts(
            data_path(data.root, name),
            columns=columns, labels=config.label_space(), key=seed_key(config.seed), limit=data.limit,
        )  # fmt: skip
        train, val = len(examples.train), len(examples.val)
        most = min(train // MIN_TRAIN, val)
        if count > most:
            raise ConfigError(
                f"--num-supernodes {clients}: {count} clients share {name}, and its {train} training and {val}"
                f" validation rows are enough for {most}; use {most * len(names)} at most, or a file with more rows"
            )
    if is_local(path := data_path(data.root, data.transfer)):
        _check_memory(config, clients, texts=len(read_transfer_set(path, columns=columns, limit=data.limit)))


def _check_memory(config: RunConfig, clients: int, *, texts: int) -> None:
    each = texts * (len(config.label_space()) + 1) * BYTES_OF_ANSWER
    free = psutil.virtual_memory().available
    if clients * each > free:
        raise ConfigError(
            f"--num-supernodes {clients}: their soft labels of {texts} texts take about {clients * each / 1e9:.1f} GB,"
            f" and {free / 1e9:.1f} GB are free; use {free // each} clients at most, or fewer texts (data.limit)"
        )
