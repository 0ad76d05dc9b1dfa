import logging
import os
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from knot_fed.config import RunConfig, flattened

os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
settings.register_profile("untimed", deadline=None)  # cores are shared: no test is judged by its time
settings.load_profile("untimed")
ROOT = Path(__file__).parent.parent
COLLECTED = pytest.StashKey()
SMALL = {
    "wait-for": 1,
    "threads": 1,
    "teacher.epochs": 2,
    "distill.epochs": 2,
    "timeout": 30.0,
}


def pytest_addoption(parser):
    parser.addoption("--screenshots", type=Path, help="folder for the browser tests' pictures of the reports")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Remember what was collected, before markers leave anything out."""
    places = (item.nodeid.partition("[")[0].split("::") for item in items)
    config.stash[COLLECTED] = {(place[0], place[-1]) for place in places}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def log_as_it_was():
    """Take back what a run in this process has done to the logger, so that later tests see its records too."""
    logger = logging.getLogger("knot_fed")
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


def small_config(folder, keys):
    """Return the defaults of pyproject.toml, made small, with overrides by key."""
    defaults = flattened(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"])
    folders = {"runs-dir": str(folder / "runs"), "state-dir": str(folder / "state")}
    return RunConfig.from_mapping(defaults | SMALL | folders | keys)


@pytest.fixture
def run_config(tmp_path):
    """The defaults of pyproject.toml, made small, with overrides by key."""

    def build(**overrides):
        return small_config(tmp_path, overrides.pop("keys", {}) | overrides)

    return build


@pytest.fixture
def small(run_config, tmp_path):
    """A configuration on files of a few rows."""
    from tests.deployment.review_files import write_reviews, write_server_files

    write_server_files(tmp_path / "data")
    names = ("phones", "restaurants", "hotels")
    for name in names:
        write_reviews(tmp_path / "data" / f"{name}.csv", name)
    files = {"data.root": str(tmp_path / "data"), "data.clients": ",".join(names)}
    files |= {"data.public": "books", "data.transfer": "forum"}
    return lambda keys=None: run_config(keys=files | (keys or {}))
