"""A project to start from: files of the package's template, and a sample of the built-in reviews."""

import csv
import os
import shutil
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

from knot_fed.data.reviews import builtin_examples, builtin_texts
from knot_fed.errors import ConfigError
from knot_fed.labels import LabelSpace

OWNERS, PUBLIC, TRANSFER = ("phones", "restaurants", "hotels"), "books", "forum"
ROWS = {"train": 300, "val": 60, "test": 120}


def write_project(folder: Path) -> None:
    """Write a configuration, a README, a loss of one's own, and data for three clients.

    Raises
    ------
    ConfigError
        If the folder is there and not empty.
    """
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there already, and not an empty folder; name another one")
    with as_file(files("knot_fed") / "template") as template:
        shutil.copytree(template, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    data = folder / "data"
    data.mkdir()
    for name in (*OWNERS, PUBLIC):
        _write(data / f"{name}.csv", ("text", "label", "split"), _labelled_rows(name))
    _write(data / f"{TRANSFER}.csv", ("text",), ((text,) for text in builtin_texts(TRANSFER)[:1000]))


def _labelled_rows(domain: str) -> Iterator[tuple[str, str, str]]:
    labels = LabelSpace.preset("sentiment")
    examples = builtin_examples(domain, labels)
    for split, count in ROWS.items():
        part = getattr(examples, split)
        for text, label in zip(part.texts[:count], part.labels[:count], strict=True):
            yield str(text), labels.names[label], split


def _write(file: Path, header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(header)
        writer.writerows(rows)
