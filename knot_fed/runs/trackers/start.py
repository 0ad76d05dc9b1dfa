"""Which trackers a run has, by its configuration, and what they are told of it."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import tomli_w

from knot_fed.config import RunConfig, Scalar, nested
from knot_fed.config.choices import AUTO, NO_TRACKER
from knot_fed.data.partition import client_name
from knot_fed.errors import ConfigError
from knot_fed.files import shorten_paths
from knot_fed.runs.trackers.tracker import TrackedRun, Tracker
from knot_fed.runs.trackers.trackers import Trackers

TRACKERS = {"tensorboard": "TensorBoardTracker", "mlflow": "MlflowTracker", "wandb": "WandbTracker"}
"""The class of each tracker; its module and its extra have the name of the tracker, as the package that it needs."""
FOLDERS = ("runs-dir", "state-dir")
OPEN_ROOTS = ("builtin", "hub")


def tracker_names(config: RunConfig) -> list[str]:
    """Return the trackers of a run.

    Raises
    ------
    ConfigError
        If the package of one is not installed.
    """
    if config.trackers == NO_TRACKER:
        return []
    if config.trackers == AUTO:
        return ["tensorboard"] if find_spec("tensorboard") else []
    names = list(dict.fromkeys(name.strip() for name in config.trackers.split(",")))
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"run configuration: trackers = {config.trackers!r} needs {name}, which is not installed; pip install"
                f' "knot-fed[{name}]" where the server runs, or leave it out'
            )
    return names


def start_trackers(config: RunConfig, folder: Path, versions: Mapping[str, str]) -> Trackers:
    """Start the trackers of a run in its folder; one that fails is left out with a line of the log."""
    tags = {"task": config.task, "loss": config.distill.loss, **{f"version.{key}": versions[key] for key in versions}}
    settings = {key: str(value) for key, value in told_settings(config).items()}
    builders = {name: _builder(name) for name in tracker_names(config)}
    return Trackers(builders, TrackedRun(folder, settings, tags), resumed=bool(config.resume))


def _builder(name: str) -> Callable[[], Tracker]:
    def build() -> Tracker:
        tracker: Tracker = getattr(import_module(f"knot_fed.runs.trackers.{name}"), TRACKERS[name])()
        return tracker

    return build


def told_settings(config: RunConfig) -> dict[str, Scalar]:
    """Return the settings that trackers are told: no folder of data, no name of a private file, no long path."""
    settings = {key: value for key, value in config.to_mapping().items() if key not in FOLDERS}
    if config.data.root not in OPEN_ROOTS:
        del settings["data.root"]
    settings["data.clients"] = ",".join(client_name(file) for file in config.data.client_names)
    return {key: shorten_paths(value) if isinstance(value, str) else value for key, value in settings.items()}


def told_configuration(config: RunConfig) -> str:
    """Return the same as TOML tables."""
    return tomli_w.dumps(nested(told_settings(config)))
