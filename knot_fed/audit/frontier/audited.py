"""Joins audits to the rows of a frontier: each to the rows of its own run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from knot_fed.audit.described import Shape, StudyDescription, describe_differences, differences
from knot_fed.audit.folder import TABLE_FILE
from knot_fed.errors import RunFolderError

STUDENT = "student"
MEASURED = {
    "audited_epsilon": ("canaries", "canaries", "epsilon_lower_bound", "max"),
    "tpr_own_row": ("membership", "own row, online", "tpr_at_1%", "mean"),
    "tpr_nearest_rows": ("membership", "nearest rows, online", "tpr_at_1%", "mean"),
    "tpr_student": (STUDENT, "student, online", "tpr_at_1%", "mean"),
    "mix_kl": ("label-mix", "soft labels: mean row", "kl", "mean"),
    "mix_kl_pooled": ("label-mix", "pooled: mean row", "kl", "mean"),
}
"""Columns that an audit adds: attack, case, measure, and the aggregation over seeds and clients."""
TRIAL = ["seed", "client", "attack", "case", "measure"]


def join_audits(
    rows: Sequence[dict[str, Any]], audits: Sequence[StudyDescription], shapes: Mapping[str, Shape]
) -> None:
    """Add what audits measured to the rows of the run that each attacked.

    Findings on soft labels join the rows of every loss, which shapes only the student. Raises RunFolderError if an
    audit attacked a run without a row, or two audits attacked one run with different effort.
    """
    found = [(audit, audit.shape({})) for audit in audits]
    strangers = "; ".join(filter(None, (_stranger(audit, shape, rows, shapes) for audit, shape in found)))
    if strangers:
        raise RunFolderError(f"{strangers}; leave out such audits, or give the sweeps of their runs")
    tables = {audit.folder: _table(audit.folder) for audit in audits}
    for row in rows:
        ours = _whole(row, shapes)
        beside = [(audit, shape) for audit, shape in found if not differences(_of_teachers(shape), _of_teachers(ours))]
        _refuse_other_efforts([audit for audit, _ in beside])
        own = [audit for audit, shape in beside if not differences(shape, ours)]
        for column, (attack, *measured) in MEASURED.items():
            joined = [tables[audit.folder] for audit in (own if attack == STUDENT else [a for a, _ in beside])]
            if joined:
                row[column] = _measured(pd.concat(joined), attack, *measured)


def _whole(row: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Shape:
    return shapes[row["shape"]] | shapes[row["of_mechanism"]] | shapes[row["of_loss"]]


def _of_teachers(shape: Shape) -> Shape:
    """Return what shapes the soft labels: everything but the loss."""
    return {key: value for key, value in shape.items() if key != "distill.loss" and not key.startswith("transport.")}


def _stranger(
    audit: StudyDescription, shape: Shape, rows: Sequence[Mapping[str, Any]], shapes: Mapping[str, Shape]
) -> str:
    """Describe how an audit without a row differs from the nearest one; empty if it has a row."""
    ours = _of_teachers(shape)
    nearest = min((_of_teachers(_whole(row, shapes)) for row in rows), key=lambda row: len(differences(ours, row)))
    differing = describe_differences(ours, nearest)
    return f"{audit.folder}: an audit of another run than the sweeps': differs in {differing}" if differing else ""


def _refuse_other_efforts(audits: Sequence[StudyDescription]) -> None:
    for other in audits[1:]:
        first = audits[0]
        keys = ", ".join(differences(first.attacked, other.attacked))
        if keys:
            raise RunFolderError(
                f"{first.folder} and {other.folder}: audits of one run that differ in {keys}; give one of them"
            )


def _table(folder: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(folder / TABLE_FILE)
    except (OSError, ValueError):
        raise RunFolderError(f"{folder / TABLE_FILE}: cannot be read as a table; call the audit again") from None
    missing = sorted({*TRIAL, "value"} - set(table.columns))
    if missing:
        raise RunFolderError(f"{folder / TABLE_FILE}: lacks {', '.join(missing)}; call the audit again")
    return table


def _measured(table: pd.DataFrame, attack: str, case: str, measure: str, over: str) -> float:
    """Aggregate a measure over seeds and clients, without trials that two audits of a run share."""
    chosen = (table["attack"] == attack) & (table["case"] == case) & (table["measure"] == measure)
    values = table[chosen].drop_duplicates(TRIAL)["value"]
    return float(values.agg(over)) if len(values) else float("nan")
