"""What audits add to a frontier: each to the rows of its own run, and to no other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from knot_fed.audit.described import Shape, StudyDescription, differences, told_differences
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
"""What an audit adds to a row: attack, case, measure, and what is taken over seeds and clients."""
TRIAL = ["seed", "client", "attack", "case", "measure"]


def join_audits(
    rows: Sequence[dict[str, Any]], audits: Sequence[StudyDescription], shapes: Mapping[str, Shape]
) -> None:
    """Enter what audits measured into the rows of the run that each attacked.

    The loss shapes the student only: what was measured on soft labels stands beside each loss, and what was measured on
    the student beside its own.

    Raises
    ------
    RunFolderError
        If an audit attacked a run that is in no row, or two attacked one run in different ways.
    """
    found = [(audit, audit.shape({})) for audit in audits]
    strangers = [_stranger(audit, shape, rows, shapes) for audit, shape in found]
    if any(strangers):
        raise RunFolderError(
            "; ".join(filter(None, strangers)) + "; leave out such audits, or give the sweeps of their runs"
        )
    tables = {audit.folder: _table(audit.folder) for audit in audits}
    for row in rows:
        ours = _whole(row, shapes)
        beside = [(audit, shape) for audit, shape in found if not differences(_of_teachers(shape), _of_teachers(ours))]
        _refuse_other_efforts([audit for audit, _ in beside])
        own = [audit for audit, shape in beside if not differences(shape, ours)]
        for column, (attack, case, measure, over) in MEASURED.items():
            joined = [tables[audit.folder] for audit in (own if attack == STUDENT else [a for a, _ in beside])]
            if joined:
                row[column] = _measured(pd.concat(joined), attack, case, measure, over)


def _whole(row: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Shape:
    return shapes[row["shape"]] | shapes[row["of_mechanism"]] | shapes[row["of_loss"]]


def _of_teachers(shape: Shape) -> Shape:
    """Return what shapes the soft labels: all but the loss."""
    return {key: value for key, value in shape.items() if key != "distill.loss" and not key.startswith("transport.")}


def _stranger(
    audit: StudyDescription, shape: Shape, rows: Sequence[Mapping[str, Any]], shapes: Mapping[str, Shape]
) -> str:
    """Say from which row an audit differs least, and in what; empty where it belongs to one."""
    ours = _of_teachers(shape)
    nearest = min((_of_teachers(_whole(row, shapes)) for row in rows), key=lambda row: len(differences(ours, row)))
    told = told_differences(ours, nearest)
    return f"{audit.folder}: an audit of another run than those of the sweeps: differs in {told}" if told else ""


def _refuse_other_efforts(audits: Sequence[StudyDescription]) -> None:
    for other in audits[1:]:
        first = audits[0]
        keys = sorted(
            key for key in {*first.attacked, *other.attacked} if first.attacked.get(key) != other.attacked.get(key)
        )
        if keys:
            raise RunFolderError(
                f"{first.folder} and {other.folder}: audits of one run that differ in {', '.join(keys)}; give one of"
                " them"
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
    """Take a measure over seeds and clients; one that two audits of a run have made counts once."""
    chosen = (table["attack"] == attack) & (table["case"] == case) & (table["measure"] == measure)
    values = table[chosen].drop_duplicates(TRIAL)["value"]
    return float(values.agg(over)) if len(values) else float("nan")
