"""The price of privacy: sweeps and audits side by side, one line for each mechanism, epsilon and loss."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from knot_fed.audit.folder import AUDIT_FILE, TABLE_FILE
from knot_fed.errors import RunFolderError
from knot_fed.privacy.mechanisms import DESCRIPTIONS
from knot_fed.reporting.results import AFTER, BEFORE, is_sweep, read_sweep
from knot_fed.sweep.statistics import paired_interval
from knot_fed.types import MEAN

GUARANTEE = ["mechanism", "epsilon", "delta"]
SETTINGS = [*GUARANTEE, "loss"]
MEASURED = {
    "audited_epsilon": ("canaries", "canaries", "epsilon_lower_bound", "max"),
    "tpr_own_row": ("membership", "own row, online", "tpr_at_1%", "mean"),
    "tpr_nearest_rows": ("membership", "nearest rows, online", "tpr_at_1%", "mean"),
    "tpr_student": ("student", "student, online", "tpr_at_1%", "mean"),
    "mix_kl": ("label-mix", "soft labels: mean row", "kl", "mean"),
    "mix_kl_pooled": ("label-mix", "pooled: mean row", "kl", "mean"),
}
"""What an audit adds to a line: attack, case, measure, and what is taken over seeds and clients."""


def price_of_privacy(folders: Sequence[Path]) -> pd.DataFrame:
    """Join sweeps and audits of like mechanism and epsilon.

    Parameters
    ----------
    folders
        Folders of sweeps, at least one, and of audits.

    Returns
    -------
    table
        One row for each mechanism, epsilon, delta and loss: `unit`, `seeds`, `sd`, `sd_half` (half the 95 % interval
        over seeds), `macro_f1`, `macro_f1_half`, `bytes_up`, `gain_kept` (the fall of SD as a share of that without a
        mechanism, same loss), `lead` with `lead_half` (SD of entropy less that of this loss, paired by seed), and the
        columns of `MEASURED`, empty where no audit is given. `none` comes last.

    Raises
    ------
    RunFolderError
        If a folder is neither a sweep nor an audit, or no sweep is given.
    """
    sweeps = [folder for folder in folders if is_sweep(folder)]
    audits = [folder for folder in folders if folder not in sweeps]
    if not sweeps:
        raise RunFolderError("no folder of a sweep; give one or more, and the audits beside them")
    students = pd.concat([_students(folder) for folder in sweeps], ignore_index=True)
    table = pd.DataFrame(
        [_line(dict(zip(SETTINGS, key, strict=True)), group, students) for key, group in _lines(students)]
    )
    found = pd.DataFrame([_audited(folder) for folder in audits], columns=[*GUARANTEE, *MEASURED])
    joined = table.merge(found.groupby(GUARANTEE, as_index=False).mean(), on=GUARANTEE, how="left")
    return joined.sort_values(["mechanism", "epsilon", "loss"], key=_none_last, kind="stable").reset_index(drop=True)


def _lines(students: pd.DataFrame) -> Any:
    return students.groupby(SETTINGS, sort=False)


def _students(folder: Path) -> pd.DataFrame:
    """Return one row for each cell of a sweep: its settings, seed, and the student's metrics before and after."""
    config = _read_toml(folder / "sweep.toml")["config"]
    frame = read_sweep(folder).frame
    mean = frame[frame["domain"] == MEAN]
    before = mean[mean["line"] == BEFORE].groupby("seed")["sd"].first()
    cells = mean[mean["line"] == AFTER].copy()
    for name in GUARANTEE:
        key = f"privacy.{name}"
        cells[name] = cells[key] if key in cells else str(config.get(key, "none" if name == "mechanism" else "nan"))
    for name in ("epsilon", "delta"):
        cells[name] = pd.to_numeric(cells[name]).where(cells["mechanism"] != "none", math.inf)
    cells["sd_before"] = cells["seed"].map(before)
    return cells[[*SETTINGS, "seed", "sd", "macro_f1", "bytes_up", "sd_before"]]


def _line(setting: Mapping[str, Any], group: pd.DataFrame, students: pd.DataFrame) -> dict[str, Any]:
    plain = students[(students["mechanism"] == "none") & (students["loss"] == setting["loss"])]
    fall, possible = (float((cells["sd_before"] - cells["sd"]).mean()) for cells in (group, plain))
    return {
        **setting,
        "unit": DESCRIPTIONS[setting["mechanism"]].unit,
        "seeds": group["seed"].nunique(),
        **_with_half(group.groupby("seed")["sd"].mean().to_numpy(), "sd"),
        **_with_half(group.groupby("seed")["macro_f1"].mean().to_numpy(), "macro_f1"),
        "bytes_up": group["bytes_up"].mean(),
        "gain_kept": fall / possible if possible > 0 else math.nan,
        **_lead(setting, group, students),
    }


def _with_half(by_seed: Float[np.ndarray, "seeds"], name: str) -> dict[str, float]:
    low, high = paired_interval(by_seed)
    return {name: float(by_seed.mean()), f"{name}_half": (high - low) / 2 if math.isfinite(high) else math.nan}


def _lead(setting: Mapping[str, Any], group: pd.DataFrame, students: pd.DataFrame) -> dict[str, float]:
    """Return by how much SD is lower than the entropy loss's under the same mechanism, paired by seed."""
    same = np.logical_and.reduce([students[key] == setting[key] for key in GUARANTEE])
    entropy = students[same & (students["loss"] == "entropy")].groupby("seed")["sd"].mean()
    leads = (entropy - group.groupby("seed")["sd"].mean()).dropna().to_numpy()
    if setting["loss"] == "entropy" or not len(leads):
        return {"lead": math.nan, "lead_half": math.nan}
    return _with_half(leads, "lead")


def _audited(folder: Path) -> dict[str, Any]:
    """Return an audit's guarantee and what was measured."""
    config = _read_toml(folder / AUDIT_FILE)["config"]
    try:
        table = pd.read_csv(folder / TABLE_FILE)
    except (OSError, ValueError):
        raise RunFolderError(f"{folder / TABLE_FILE}: cannot be read as a table; call the audit again") from None
    mechanism = config.get("privacy.mechanism", "none")
    guarantee = {name: math.inf if mechanism == "none" else float(config[f"privacy.{name}"]) for name in GUARANTEE[1:]}
    measured = {}
    for column, (attack, case, measure, over) in MEASURED.items():
        rows = table[(table["attack"] == attack) & (table["case"] == case) & (table["measure"] == measure)]
        measured[column] = rows["value"].agg(over) if len(rows) else math.nan
    return {"mechanism": mechanism, **guarantee, **measured}


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunFolderError(f"{file.parent}: neither a sweep nor an audit; give folders that they printed") from None


def _none_last(column: pd.Series) -> pd.Series:
    return column.map(lambda value: (value == "none", value)) if column.name == "mechanism" else column
