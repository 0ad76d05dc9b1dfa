"""What can be refused before anything starts: settings, models and functions that a run could only fail on."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from knot_fed.aggregation import SCHEMES, client_weights
from knot_fed.config import RunConfig
from knot_fed.data.partition import client_name, client_shard
from knot_fed.errors import ConfigError, RunFolderError
from knot_fed.losses import BUILDERS, make_loss, try_loss
from knot_fed.models import check_model_name
from knot_fed.preflight.files import check_files
from knot_fed.preflight.models import check_models, named_models
from knot_fed.privacy.secure_sum import check_threshold, default_threshold
from knot_fed.reporting import RunFolder


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
    check_deployed_run(config)
    check_own_functions(config)
    notes = check_models(config, check_files(config, clients=clients))
    if config.privacy.secure_sum:
        asked = max(config.min_teachers, math.ceil(config.fraction * clients))
        check_threshold(config.privacy.threshold or default_threshold(asked), clients=asked)
    return notes


def check_deployed_run(config: RunConfig) -> None:
    """Refuse a run of real clients that could only fail, as far as it shows without the server's files.

    Raises
    ------
    KnotError
        If the label space or a model's name is wrong, or two settings do not go together.
    """
    config.label_space()
    for model in named_models(config):
        check_model_name(model)
    if config.trainable == "head" and not all(model.startswith("hf:") for model in named_models(config)):
        others = ", ".join(sorted(model for model in named_models(config) if not model.startswith("hf:")))
        raise ConfigError(
            f"run configuration: trainable = 'head' trains on a frozen hf: encoder, and {others} is none; use"
            " trainable = 'all', or hf: models"
        )


def check_run_folder(config: RunConfig) -> None:
    """Refuse a name that is taken, or a run to resume that left nothing to go on with.

    Raises
    ------
    RunFolderError
        If so.
    """
    folder = Path(config.runs_dir) / config.name
    if config.resume:
        RunFolder.resume(folder, config.to_mapping())
    elif folder.exists():
        raise RunFolderError(f"{folder}: there is a run of this name; give another name, or delete the folder")


def check_own_functions(config: RunConfig) -> None:
    """Call the loss and a user's own scheme on a small batch.

    Raises
    ------
    KnotError
        If one cannot be built or imported, raises, or returns what it must not.
    """
    loss, labels = make_loss(config), len(config.label_space())
    if config.distill.loss not in BUILDERS:
        try_loss(loss, labels=labels, name=config.distill.loss)
    if config.weights.scheme not in SCHEMES:
        generator = np.random.default_rng(1)
        soft_labels = generator.dirichlet(np.ones(labels), size=(3, 4))
        client_weights(
            config.weights.scheme,
            examples=np.array([10, 20, 30]),
            confidences=generator.uniform(size=(3, 4)),
            soft_labels=soft_labels,
            power=config.weights.power,
        )


def _check_clients(config: RunConfig, clients: int) -> None:
    files = config.data.client_names
    client_shard(0, clients, files)
    _refuse_repeats(files)
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


def _refuse_repeats(files: Sequence[str]) -> None:
    names = [client_name(file) for file in files]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"run configuration: data.clients has {repeated[0]!r} more than once; name each file once, since a client"
            " is called like its file"
        )
