"""One labelled file, dealt into the three roles of a simulated federation."""

import json
import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from knot_fed.data.inspection.checked_file import CheckedFile, check_file
from knot_fed.data.private import texts_of
from knot_fed.data.reading.files import SUFFIXES
from knot_fed.data.reading.table import Table
from knot_fed.data.transfer_set import text_key
from knot_fed.errors import ConfigError, DataError, writing_failed
from knot_fed.files import make_folder, write_file

PRIVATE, PUBLIC, TRANSFER = "private", "public", "transfer"
SHARES = {PRIVATE: 0.6, PUBLIC: 0.15, TRANSFER: 0.25}
CONFIGURATION = "run.toml"
FEWEST = 100
"""Rows below which a role would get too few to train on."""
LONGEST_NAME = 60
MARK = "# Dealt from one file by flower-simulation --data"
"""Start of a configuration whose folder may be written again."""
ROLE_KEYS = ("data.root", "data.clients", "data.public", "data.transfer")


@dataclass(frozen=True, slots=True)
class DealtFile:
    """The folder with the dealt files and `run.toml`, the number of rows of each role, and notes for the owner."""

    folder: Path
    rows: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def configuration(self) -> Path:
        """The TOML file that runs on the dealt files."""
        return self.folder / CONFIGURATION


def deal_file(path: Path, folder: Path, given: Mapping[str, object], *, clients: int) -> DealtFile:
    """Deal the rows of a labelled file to virtual clients, the server and the transfer set, and write these files.

    Columns and labels are found as in `check_file`. A hash of the text alone decides, so that the same file is always
    dealt alike and equal texts stay together: about 60 % of the texts are private, 15 % are the server's labelled set,
    and 25 % lose their labels and become the transfer set.

    Parameters
    ----------
    path
        The file, as for `check_file`.
    folder
        Folder to write; if it exists, it may hold nothing but files that were dealt earlier.
    given
        Keys of the run configuration that are known, such as `data.label`.
    clients
        Virtual clients that will share the private rows, for the command in `run.toml`.

    Raises
    ------
    ConfigError
        If the file does not exist, the keys name files already, or the folder holds anything else.
    DataError
        If the file breaks a rule, has no label column, or too few rows.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a csv, tsv, jsonl or parquet file with texts and labels")
    if named := [key for key in ROLE_KEYS if key in given]:
        raise ConfigError(f"--data deals {path.name} into all roles, but {named[0]} is set; give one of the two")
    checked = check_file(path, given)
    table, columns = checked.guess.table, checked.guess.columns
    if not checked.classes:
        raise DataError(
            f"{path.name}: no column looks like labels ({', '.join(table.names)}); name it by data.label=NAME"
        )
    if len(table) < FEWEST:
        raise DataError(f"{path.name}: {len(table)} rows are too few to deal; give {FEWEST} rows or more")
    rows = _dealt(table, texts_of(table, columns, name=path.name), label=columns.label, split=columns.split)
    if empty := [role for role in SHARES if not rows[role]]:
        raise DataError(f"{path.name}: no text falls to the {empty[0]} set; give more texts that differ")
    files = {f"{role}.jsonl": "".join(rows[role]).encode() for role in SHARES}
    _write(folder, files | {CONFIGURATION: _configuration(checked, folder, given, clients).encode()})
    notes = list(checked.notes)
    if columns.split:
        notes.append(f"column {columns.split!r} is not used: each role is split anew")
    return DealtFile(folder, {role: len(rows[role]) for role in SHARES}, tuple(notes))


def _configuration(checked: CheckedFile, folder: Path, given: Mapping[str, object], clients: int) -> str:
    """Return the TOML file that runs on the dealt files, with the command as a comment."""
    settings, unused = dict(checked.settings), ("delimiter", "quoting", "split")
    settings["data"] = {
        **{key: value for key, value in settings["data"].items() if key not in unused},
        **{"root": str(folder.resolve()), "clients": PRIVATE, "public": PUBLIC, "transfer": TRANSFER},
    }
    if "task" not in given and "labels" in settings:
        settings["task"] = _plain_name(checked.path)
    command = shlex.join(["flower-simulation", str(folder / CONFIGURATION), "--num-supernodes", str(clients)])
    return f"{MARK}; run it again by: {command}\n{tomli_w.dumps(settings)}"


def dealt_folder(path: Path) -> Path:
    """Return the folder in the current one that a file is dealt into.

    Examples
    --------
    >>> dealt_folder(Path("/data/My reviews (1).csv.gz")).as_posix()
    'My-reviews-1-dealt'
    """
    return Path(f"{_plain_name(path)}-dealt")


def _plain_name(path: Path) -> str:
    """Return a name of letters, digits, dots and dashes, from that of the file; `data` if nothing remains."""
    stem = path.name.removesuffix(next(filter(path.name.endswith, SUFFIXES), ""))
    letters = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", letters).strip("-._")[:LONGEST_NAME].strip("-._") or "data"


def _dealt(table: Table, texts: tuple[Any, ...], *, label: str, split: str) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {role: [] for role in SHARES}
    for row, text in zip(_rows(table), texts, strict=True):
        role = _role(text_key(text))
        left_out = {split, label} if role == TRANSFER else {split}
        row = {key: value for key, value in row.items() if key not in left_out}
        rows[role].append(json.dumps(row, ensure_ascii=False) + "\n")
    return rows


def _rows(table: Table) -> Iterator[dict[str, object]]:
    for values in zip(*table.columns.values(), strict=True):
        yield {name: value for name, value in zip(table.columns, values, strict=True) if value is not None}


def _role(key: bytes) -> str:
    """Return the role of a text by its key, which is part of a SHA-256 and so uniform."""
    chance, last = int.from_bytes(key, "big") / 256 ** len(key), 0.0
    for role, share in SHARES.items():
        last += share
        if chance < last:
            return role
    return TRANSFER


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into a new folder, or into one that holds nothing but files dealt earlier."""
    try:
        if folder.exists() and {file.name for file in folder.iterdir()} - files.keys():
            raise ConfigError(f"{folder}: holds other files than dealt ones; move it away")
        written = folder / CONFIGURATION
        if written.exists() and not written.read_text(encoding="utf-8", errors="replace").startswith(MARK):
            raise ConfigError(f"{written}: was not written by --data; move it away")
        make_folder(folder)
        for name, content in files.items():
            write_file(folder / name, content)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {writing_failed(error)}") from None
