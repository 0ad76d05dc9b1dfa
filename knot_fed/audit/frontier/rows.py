"""The price of privacy: sweeps and audits joined, one row for each study, mechanism, epsilon and loss."""

import json
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from knot_fed.audit.described import (
    GUARANTEE,
    OF_MECHANISM,
    Shape,
    StudyDescription,
    differences,
    read_description,
    settle_unknown,
    value_in_words,
)
from knot_fed.audit.folder import AUDIT_FILE
from knot_fed.audit.frontier.audited import MEASURED, join_audits
from knot_fed.config import MECHANISMS, NO_MECHANISM, Scalar
from knot_fed.errors import RunFolderError
from knot_fed.runs.results import AFTER, BEFORE, SETTING_KEYS, is_sweep, read_sweep
from knot_fed.runs.statistics import paired_interval
from knot_fed.sweep.folder import SWEEP_FILE
from knot_fed.types import MEAN

SETTINGS = [*GUARANTEE, "loss"]
PARTS = ["shape", "of_mechanism", "of_loss"]
"""A run's shape in three parts: the study, in which runs can be compared, and settings of mechanism and loss."""


@dataclass(frozen=True, slots=True, eq=False)
class Frontier:
    """The joined table, and notes on studies that are kept apart and on what is unknown."""

    table: pd.DataFrame
    notes: Sequence[str]


def price_of_privacy(folders: Sequence[Path]) -> Frontier:
    """Join sweeps and audits whose results are shaped by the same settings, except mechanism, epsilon and loss.

    Parameters
    ----------
    folders
        Folders of sweeps, at least one, and of audits.

    Returns
    -------
    frontier
        One row for each study, mechanism, epsilon, delta and loss: `study` (a letter, empty if there is only one),
        `settings` (what else distinguishes two rows), `unit`, `seeds`, `sd`, `sd_half` (half the 95 % interval over
        seeds), `macro_f1`, `macro_f1_half`, `bytes_up`, `gain_kept` (decrease of SD relative to that without a
        mechanism, same study and loss), `lead` with `lead_half` (SD of entropy minus that of this loss, paired
        by seed), and the columns of `MEASURED`, NaN without an audit. `none` comes last.

    Raises
    ------
    RunFolderError
        If a folder is neither a sweep nor an audit, no sweep is given, or an audit is of no run of these sweeps.
    """
    sweeps = [folder for folder in folders if is_sweep(folder)]
    if not sweeps:
        raise RunFolderError("no folder of a sweep; give one or more, and the audits beside them")
    files = [folder / (SWEEP_FILE if folder in sweeps else AUDIT_FILE) for folder in folders]
    described, notes = settle_unknown([read_description(file) for file in files])
    shapes: dict[str, Shape] = {}
    students = pd.concat([_students(study, shapes) for study in described if study.folder in sweeps], ignore_index=True)
    grouped = students.groupby([*SETTINGS, *PARTS], sort=False)
    rows = [_line(dict(zip([*SETTINGS, *PARTS], key, strict=True)), group, students) for key, group in grouped]
    names, apart = _named_studies(students, shapes)
    for row in rows:
        row |= {"study": names[row["shape"]], "settings": _settings(row, rows, shapes)}
    join_audits(rows, [study for study in described if study.folder not in sweeps], shapes)
    columns = dict.fromkeys(["study", *SETTINGS, "settings", *rows[0]])
    table = pd.DataFrame(rows)[[column for column in columns if column not in PARTS]]
    ordered = table.sort_values(["study", "mechanism", "epsilon", "loss"], key=_none_last, kind="stable")
    return Frontier(ordered.reset_index(drop=True), [*apart, *notes])


def _students(study: StudyDescription, shapes: dict[str, Shape]) -> pd.DataFrame:
    """Return a row for each cell of a sweep: settings, seed, shape, and the student's metrics before and after."""
    frame = read_sweep(study.folder).frame
    mean = frame[frame["domain"] == MEAN]
    starts, further = mean[mean["line"] == BEFORE], [key for key in study.grid if key in frame.columns]
    rows = []
    for cell in mean[mean["line"] == AFTER].to_dict("records"):
        shape = study.shape(_values(study, cell))
        start = starts[starts["seed"] == cell["seed"]]
        for key in further:
            start = start[(start[key] == "") | (start[key] == cell[key])]
        rows.append(
            _settings_of(shape)
            | _parts(shape, shapes)
            | {key: cell[key] for key in ("seed", "sd", "macro_f1", "bytes_up")}
            | {"sd_before": start["sd"].mean(), "folder": str(study.folder)}
        )
    return pd.DataFrame(rows)


def _values(study: StudyDescription, cell: Mapping[Any, Any]) -> dict[str, Scalar]:
    """Return the grid values of a cell with their types, without keys that the cell does not read."""
    values: dict[str, Scalar | None] = {}
    columns = {key: setting for setting, key in SETTING_KEYS.items()}
    for key, listed in study.grid.items():
        written = str(cell[columns.get(key, key)])
        values[key] = next((value for value in listed if written and _same(written, value)), None)
    return {"distill.loss": str(cell["loss"])} | {key: value for key, value in values.items() if value is not None}


def _same(written: str, value: Scalar) -> bool:
    """Compare a value with its form in a csv file, where an integer may have become 2.0."""
    if written == str(value):
        return True
    try:
        return not isinstance(value, bool | str) and float(written) == float(value)
    except ValueError:
        return False


def _settings_of(shape: Shape) -> dict[str, Any]:
    bounded = MECHANISMS[shape["privacy.mechanism"]].has_guarantee
    claimed = {name: float(shape[f"privacy.{name}"]) if bounded else math.inf for name in GUARANTEE[1:]}
    return {"mechanism": shape["privacy.mechanism"], **claimed, "loss": shape["distill.loss"]}


def _parts(shape: Shape, shapes: dict[str, Shape]) -> dict[str, str]:
    """Split a shape in three, and store each part under its JSON text."""
    of_loss = {key: value for key, value in shape.items() if key == "distill.loss" or key.startswith("transport.")}
    of_mechanism = {key: value for key, value in shape.items() if key in OF_MECHANISM}
    rest = {key: value for key, value in shape.items() if key not in of_loss and key not in of_mechanism}
    parts = {}
    for name, part in zip(PARTS, (rest, of_mechanism, of_loss), strict=True):
        parts[name] = json.dumps(part, sort_keys=True)
        shapes[parts[name]] = part
    return parts


def _named_studies(students: pd.DataFrame, shapes: Mapping[str, Shape]) -> tuple[dict[str, str], list[str]]:
    """Name each study by a letter if there are several, and describe how they differ."""
    studies = list(dict.fromkeys(students["shape"]))
    if len(studies) == 1:
        return {studies[0]: ""}, []
    keys = sorted({key for study in studies for key in differences(shapes[studies[0]], shapes[study])})
    names = {study: f"{string.ascii_uppercase[place % 26]}{place // 26 or ''}" for place, study in enumerate(studies)}
    notes = [f"{len(studies)} studies are kept apart, since what shapes their results differs: {', '.join(keys)}"]
    for study, name in names.items():
        folders = ", ".join(dict.fromkeys(students[students["shape"] == study]["folder"]))
        notes.append(f"study {name}: {folders}: {_in_words(shapes[study], keys)}")
    return names, notes


def _settings(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], shapes: Mapping[str, Shape]) -> str:
    """Describe what else distinguishes a row from others with its mechanism or its loss."""
    keys: set[str] = set()
    for part, name in (("of_mechanism", "mechanism"), ("of_loss", "loss")):
        for other in rows:
            if other[name] == row[name]:
                keys |= {*differences(shapes[row[part]], shapes[other[part]])}
    whole = shapes[row["of_mechanism"]] | shapes[row["of_loss"]]
    return _in_words(whole, sorted(keys - {f"privacy.{name}" for name in GUARANTEE}))


def _in_words(shape: Shape, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {value_in_words(shape, key)}" for key in keys)


def _line(setting: Mapping[str, Any], group: pd.DataFrame, students: pd.DataFrame) -> dict[str, Any]:
    plain = students[(students["mechanism"] == NO_MECHANISM) & _same_in(students, setting, ["shape", "of_loss"])]
    fall, possible = (float((cells["sd_before"] - cells["sd"]).mean()) for cells in (group, plain))
    return {
        **setting,
        "unit": MECHANISMS[setting["mechanism"]].guarantee.unit,
        "seeds": group["seed"].nunique(),
        **_with_half(group.groupby("seed")["sd"].mean().to_numpy(), "sd"),
        **_with_half(group.groupby("seed")["macro_f1"].mean().to_numpy(), "macro_f1"),
        "bytes_up": group["bytes_up"].mean(),
        "gain_kept": fall / possible if possible > 0 else math.nan,
        **_lead(setting, group, students),
        **dict.fromkeys(MEASURED, math.nan),
    }


def _same_in(students: pd.DataFrame, setting: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return np.logical_and.reduce([students[key] == setting[key] for key in keys])


def _with_half(by_seed: Float[np.ndarray, "seeds"], name: str) -> dict[str, float]:
    low, high = paired_interval(by_seed)
    return {name: float(by_seed.mean()), f"{name}_half": (high - low) / 2 if math.isfinite(high) else math.nan}


def _lead(setting: Mapping[str, Any], group: pd.DataFrame, students: pd.DataFrame) -> dict[str, float]:
    """Return how much lower SD is than with the entropy loss in the same study and mechanism, paired by seed."""
    same = _same_in(students, setting, ["shape", "of_mechanism"])
    entropy = students[same & (students["loss"] == "entropy")].groupby("seed")["sd"].mean()
    leads = (entropy - group.groupby("seed")["sd"].mean()).dropna().to_numpy()
    if setting["loss"] == "entropy" or not len(leads):
        return {"lead": math.nan, "lead_half": math.nan}
    return _with_half(leads, "lead")


def _none_last(column: pd.Series) -> pd.Series:
    return column.map(lambda value: (value == NO_MECHANISM, value)) if column.name == "mechanism" else column
