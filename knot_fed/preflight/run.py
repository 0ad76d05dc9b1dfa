"""What can be refused before anything starts: settings, models and functions that a run could only fail on."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from knot_fed.config import RunConfig
from knot_fed.data.partition import CLIENT_NAME, LONGEST_CLIENT_NAME, client_name, client_shard
from knot_fed.errors import ConfigError, shown
from knot_fed.files import check_writable
from knot_fed.models import check_model_name
from knot_fed.preflight.files import check_files
from knot_fed.preflight.models import check_models, named_models
from knot_fed.preflight.own import check_own_functions
from knot_fed.privacy.secure_sum import check_threshold, default_threshold
from knot_fed.runs.run_folder import RunFolder, taken
from knot_fed.types import MEAN


def check_run(config: RunConfig, *, clients: int) -> list[str]:
    """Refuse a run of virtual clients that could only fail.

    What the hub has is left to the run; all files of this machine are read, its pretrained models read a few texts, and
    a user's own functions are called.

    Parameters
    ----------
    config
        The run's configuration, with absolute paths.
    clients
        Number of virtual clients.

    Returns
    -------
    notes
        What a user would not expect of the run, and may still want.

    Raises
    ------
    KnotError
        If there are too few clients, a file, a model or a function cannot be used, or two settings do not go together.
    """
    _check_clients(config, clients)
    check_writable(Path(config.state_dir), key="state-dir")
    notes = check_deployed_run(config)
    check_own_functions(config)
    sample, told = check_files(config, clients=clients)
    notes += [*told, *check_models(config, sample)]
    if config.privacy.secure_sum:
        asked = max(config.min_teachers, math.ceil(config.fraction * clients))
        check_threshold(config.privacy.threshold or default_threshold(asked), clients=asked)
    return notes


def check_deployed_run(config: RunConfig) -> list[str]:
    """Refuse a run of real clients that could only fail, as far as it shows without the server's files.

    Returns what the user should know before the start, in sentences.

    Raises
    ------
    KnotError
        If the label space or a model's name is wrong, or two settings do not go together.
    """
    for model in named_models(config):
        check_model_name(model)
    if config.trainable == "head" and not all(model.startswith("hf:") for model in named_models(config)):
        others = ", ".join(sorted(model for model in named_models(config) if not model.startswith("hf:")))
        raise ConfigError(
            f"run configuration: trainable = 'head' trains on a frozen hf: encoder, and {others} is not one; use"
            " trainable = 'all', or hf: models"
        )
    return _places_of_labels(config)


def _places_of_labels(config: RunConfig) -> list[str]:
    """Tell where labels without coordinates are taken to lie."""
    space, settings = config.label_space(), config.labels
    if not settings.names or settings.coordinates.strip():
        return []
    if space.ordered:
        return ["labels.ordered = true: the labels lie on a line in the order of labels.names, each one from the next"]
    return [
        "labels.names without labels.coordinates: every two labels are one apart, in the ground cost (zero-one,"
        " whatever transport.cost names, unless a file) and in Semantic Distance; labels.ordered = true puts them on a"
        " line, in that order"
    ]


def check_run_folder(config: RunConfig) -> None:
    """Refuse a name that is taken, or a run to resume that left nothing to resume.

    Raises
    ------
    KnotError
        If so, or if the folder cannot be made.
    """
    folder = Path(config.runs_dir) / config.name
    if config.resume:
        RunFolder.resume(folder, config.to_mapping())
    elif os.path.lexists(folder):
        raise taken(folder)
    check_writable(folder, key="runs-dir")


def _check_clients(config: RunConfig, clients: int) -> None:
    files = config.data.client_names
    client_shard(0, clients, files)
    _check_names(files)
    _check_alphabet(files, clients)
    for key, needed in (("wait-for", config.wait_for), ("min-teachers", config.min_teachers)):
        if needed > clients:
            raise ConfigError(
                f"run configuration: {key} = {needed}, but there are {clients} clients; lower {key}, or give"
                f" --num-supernodes {needed}"
            )
    models = [name for name in config.teacher.models.split(",") if name.strip()]
    if models and len(models) != len(files):
        raise ConfigError(
            f"run configuration: teacher.models names {len(models)} models for {len(files)} files of data.clients; name"
            " one for each"
        )


def _check_alphabet(files: Sequence[str], clients: int) -> None:
    for index in range(max(0, clients - len(files)), clients):  # the last shares of the files have the longest names
        name = client_shard(index, clients, files).name
        if not CLIENT_NAME.fullmatch(name):
            raise ConfigError(
                f"run configuration: data.clients gives a client the name {shown(name)}, which is not 1 to"
                f" {LONGEST_CLIENT_NAME} letters, digits, dots, dashes or underscores; rename the file"
            )


def _check_names(files: Sequence[str]) -> None:
    names = [client_name(file) for file in files]
    if MEAN in names:
        raise ConfigError(
            f"run configuration: data.clients has {MEAN!r}, as the mean over all clients is called in every table;"
            " rename the file"
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"run configuration: data.clients has {repeated[0]!r} more than once; name each file once, since a client"
            " is called like its file"
        )
