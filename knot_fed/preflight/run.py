"""Checks of settings, files, models and plug-ins before a run starts."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from knot_fed.config import PROMPT, RunConfig
from knot_fed.data.partition import CLIENT_NAME, LONGEST_CLIENT_NAME, client_name, client_shard
from knot_fed.errors import ConfigError, shown
from knot_fed.files import check_writable
from knot_fed.models import check_device, check_model_name
from knot_fed.preflight.files import check_files
from knot_fed.preflight.models import check_models, named_models
from knot_fed.preflight.plugins import check_plugins
from knot_fed.privacy.secure_sum import check_threshold, default_threshold
from knot_fed.runs.run_folder import RunFolder, taken
from knot_fed.runs.trackers.start import tracker_names
from knot_fed.types import MEAN


def check_run(config: RunConfig, *, clients: int) -> list[str]:
    """Refuse a run of virtual clients that would fail.

    Local files are read, local pretrained models read a few texts, and plug-ins are called; data sets and models of the
    hub are not checked.

    Parameters
    ----------
    config
        The run's configuration, with absolute paths.
    clients
        Number of virtual clients.

    Returns
    -------
    notes
        Sentences on what a user may not expect of the run.

    Raises
    ------
    KnotError
        If there are too few clients, a file, model or plug-in cannot be used, or two settings contradict each other.
    """
    _check_clients(config, clients)
    check_device(config)
    tracker_names(config)
    check_writable(Path(config.state_dir), key="state-dir")
    notes = check_deployed_run(config)
    check_plugins(config)
    sample, told = check_files(config, clients=clients)
    notes += [*told, *check_models(config, sample)]
    if config.privacy.secure_sum:
        asked = max(config.min_teachers, math.ceil(config.fraction * clients))
        check_threshold(config.privacy.threshold or default_threshold(asked), clients=asked)
    return notes


def check_deployed_run(config: RunConfig) -> list[str]:
    """Refuse a run of real clients that would fail, as far as this shows without the server's files.

    Returns notes for the user.

    Raises
    ------
    KnotError
        If the label space or a model's name is invalid, or two settings contradict each other.
    """
    models = named_models(config)
    for model in models:
        check_model_name(model)
    others = ", ".join(sorted(model for model in models if not model.startswith(("hf:", PROMPT))))
    if config.trainable == "head" and others:
        raise ConfigError(
            f"run configuration: trainable = 'head' trains on a frozen hf: encoder, and {others} is not one; use"
            " trainable = 'all', or hf: models"
        )
    if config.trainable == "lora" and not any(model.startswith("hf:") for model in models):
        raise ConfigError(
            "run configuration: trainable = 'lora' adds adapters to hf: models, and the run has none; use trainable ="
            " 'all', or an hf: model"
        )
    space, settings = config.label_space(), config.labels
    if not settings.names or settings.coordinates.strip():
        return []
    if space.ordered:
        return ["labels.ordered = true: the labels lie on a line in the order of labels.names, each one from the next"]
    if config.ground_cost != "zero-one" or config.geometry != "equal":
        return []
    return [
        "labels.names without labels.coordinates: every two labels are one apart, in the ground cost (zero-one,"
        " whatever transport.cost names, unless a file or one that reads no coordinates) and in Semantic Distance;"
        " labels.ordered = true puts them on a line, in that order"
    ]


def check_run_folder(config: RunConfig) -> None:
    """Raise `KnotError` if the run's name is taken, there is nothing to resume, or the folder cannot be created."""
    folder = Path(config.runs_dir) / config.name
    if config.resume:
        RunFolder.resume(folder, config.to_mapping())
    elif os.path.lexists(folder):
        raise taken(folder)
    check_writable(folder, key="runs-dir")


def _check_clients(config: RunConfig, clients: int) -> None:
    files = config.data.client_names
    client_shard(0, clients, files)
    _check_names(files, clients)
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


def _check_names(files: Sequence[str], clients: int) -> None:
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
    for index in range(max(0, clients - len(files)), clients):  # the last shares of the files have the longest names
        name = client_shard(index, clients, files).name
        if not CLIENT_NAME.fullmatch(name):
            raise ConfigError(
                f"run configuration: data.clients gives a client the name {shown(name)}, which is not 1 to"
                f" {LONGEST_CLIENT_NAME} letters, digits, dots, dashes or underscores; rename the file"
            )
