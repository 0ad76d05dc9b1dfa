"""One labelled file, dealt into the three roles of a simulated federation."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from knot_fed.data.inspection.checked_file import check_file
from knot_fed.data.private import texts_of
from knot_fed.data.reading.files import SUFFIXES
from knot_fed.data.reading.table import Table
from knot_fed.data.transfer_set import text_key
from knot_fed.errors import ConfigError, DataError, writing_failed
from knot_fed.files import make_folder, write_file

PRIVATE, PUBLIC, TRANSFER = "private", "public", "transfer"
SHARES = {PRIVATE: 0.6, PUBLIC: 0.15, TRANSFER: 0.25}
CONFIGURATION = "run.toml"
FEWEST = 30
"""Rows below which a role would get too few to train on."""


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


def deal_file(path: Path, folder: Path, given: Mapping[str, object]) -> DealtFile:
    """Deal the rows of a labelled file to virtual clients, the server and the transfer set, and write these files.

    Columns and labels are found as in `check_file`. A hash of the text alone decides, so that the same file is always
    dealt alike and equal texts stay together: about 60 % of the texts are private, 15 % are the server's labelled set,
    and 25 % lose their labels and become the transfer set.

    Parameters
    ----------
    path
        The file, as for `check_file`.
    folder
        Folder to write; if it exists, it must hold what would be written.
    given
        Keys of the run configuration that are known, such as `data.label`.

    Raises
    ------
    ConfigError
        If the file does not exist, or the folder holds anything else.
    DataError
        If the file breaks a rule, has no label column, or too few rows.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a csv, tsv, jsonl or parquet file with texts and labels")
    checked = check_file(path, given)
    table = checked.guess.table
    if not checked.classes:
        raise DataError(
            f"{path.name}: no column looks like labels ({', '.join(table.names)}); name it by data.label=NAME"
        )
    if len(table) < FEWEST:
        raise DataError(f"{path.name}: {len(table)} rows are too few to deal; give {FEWEST} rows or more")
    rows = _dealt(table, texts_of(table, checked.guess.columns, name=path.name), label=checked.guess.columns.label)
    if empty := [role for role in SHARES if not rows[role]]:
        raise DataError(f"{path.name}: no text falls to the {empty[0]} set; give more texts that differ")
    files = {f"{role}.jsonl": "".join(rows[role]).encode() for role in SHARES}
    settings = dict(checked.settings)
    settings["data"] = {
        **{key: value for key, value in settings["data"].items() if key not in ("delimiter", "quoting")},
        **{"root": str(folder.resolve()), "clients": PRIVATE, "public": PUBLIC, "transfer": TRANSFER},
    }
    _write(folder, files | {CONFIGURATION: tomli_w.dumps(settings).encode()})
    return DealtFile(folder, {role: len(rows[role]) for role in SHARES}, checked.notes)


def dealt_folder(path: Path) -> Path:
    """Return the folder in the current one that a file is dealt into.

    Examples
    --------
    >>> dealt_folder(Path("/data/reviews.csv.gz")).as_posix()
    'reviews-dealt'
    """
    return Path(path.name.removesuffix(next(filter(path.name.endswith, SUFFIXES), "")) + "-dealt")


def _dealt(table: Table, texts: tuple[Any, ...], *, label: str) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {role: [] for role in SHARES}
    for row, text in zip(_rows(table), texts, strict=True):
        role = _role(hashlib.sha256(text_key(text)).digest())
        if role == TRANSFER:
            row = {key: value for key, value in row.items() if key != label}
        rows[role].append(json.dumps(row, ensure_ascii=False) + "\n")
    return rows


def _rows(table: Table) -> Iterator[dict[str, object]]:
    for values in zip(*table.columns.values(), strict=True):
        yield {name: value for name, value in zip(table.columns, values, strict=True) if value is not None}


def _role(digest: bytes) -> str:
    """Return the role at a uniform place of the shares."""
    chance, last = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for role, share in SHARES.items():
        last += share
        if chance < last:
            return role
    return TRANSFER


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files, or accept a folder that holds exactly them."""
    try:
        held = {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}
        if held and held != files:
            raise ConfigError(
                f"{folder}: already exists and holds other files than this data file is dealt into; move it away"
            )
        make_folder(folder)
        for name, content in files.items():
            write_file(folder / name, content)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {writing_failed(error)}") from None
