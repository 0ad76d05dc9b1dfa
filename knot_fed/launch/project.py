"""A new project: the package's template and its sample of real reviews."""

import gzip
import os
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from knot_fed.errors import ConfigError

SOURCE = "SOURCE.txt"
"""Source and licence of the sample."""


def write_project(folder: Path) -> None:
    """Write a configuration, a README, a custom loss, and data for three clients.

    Raises
    ------
    ConfigError
        If the folder exists and is not empty.
    """
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: already exists and is not an empty folder; choose another one")
    with as_file(files("knot_fed") / "template") as template:
        shutil.copytree(template, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    data = folder / "data"
    data.mkdir()
    with as_file(files("knot_fed") / "sample") as sample:
        shutil.copy(sample / SOURCE, data)
        for file in sample.glob("*.csv.gz"):
            (data / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
