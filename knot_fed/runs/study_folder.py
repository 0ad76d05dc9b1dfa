"""The folder of a sweep or audit: created for one configuration, and reopened for the same one only."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from knot_fed.errors import RunFolderError
from knot_fed.files import SHARED, write_file


def open_study(
    path: Path, described: Mapping[str, Any], *, file: str, kind: str, fixed: Sequence[str], later: Sequence[str] = ()
) -> None:
    """Create a study's folder, or reopen one of the same description.

    Parameters
    ----------
    path
        The folder.
    described
        The parts of the study's description, written to the file.
    file
        Name of the TOML file that marks a study's folder.
    kind
        `sweep` or `audit`, for the error.
    fixed
        Parts that must equal those of an existing folder.
    later
        Fixed parts that folders of an earlier version lack; there they stay unknown.

    Raises
    ------
    RunFolderError
        If the folder holds anything else, or cannot be created; nothing is overwritten.
    """
    kept = check_study(path, described, file=file, kind=kind, fixed=fixed, later=later)
    unknown = [part for part in later if kept and part not in kept]
    told = {part: value for part, value in described.items() if part not in unknown}
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_file(path / file, tomli_w.dumps(told).encode(), mode=SHARED)
    except OSError as error:
        raise _no_folder(path, error) from None


def check_study(
    path: Path, described: Mapping[str, Any], *, file: str, kind: str, fixed: Sequence[str], later: Sequence[str] = ()
) -> dict[str, Any]:
    """Check what `open_study` checks without writing; return the existing description, empty for a new folder.

    Raises
    ------
    RunFolderError
        If the folder holds anything else, or is not a folder.
    """
    description = path / file
    try:
        if description.is_file():
            kept = tomllib.loads(description.read_text(encoding="utf-8"))
            compared = [part for part in fixed if part in kept or part not in later]
            _check_same(kept, described, compared, f"{path}: another {kind}'s folder")
            return kept
        if path.exists() and any(path.iterdir()):
            raise RunFolderError(f"{path}: not empty and no {kind}; give --out a new folder")
    except ValueError:
        raise RunFolderError(f"{description}: not valid TOML; give --out a new folder") from None
    except OSError as error:
        raise _no_folder(path, error) from None
    return {}


def _no_folder(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{path}: cannot be a folder ({error.strerror}); give --out another one")


def _check_same(kept: Mapping[str, Any], described: Mapping[str, Any], fixed: Sequence[str], where: str) -> None:
    for part in fixed:
        ours, theirs = described[part], kept.get(part, {})
        if theirs == ours:
            continue
        found = f"it has {theirs} {part}, not {ours}"
        if isinstance(ours, dict):
            differing = [key for key in ours if theirs.get(key) != ours[key]]
            found = f"{part} differs in {', '.join(differing) or 'its keys'}"
        raise RunFolderError(f"{where} ({found}); give --out a new folder")
