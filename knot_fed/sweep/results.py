"""The tidy table of a sweep: one row for each line, seed and domain."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from knot_fed.files import SHARED, write_file
from knot_fed.losses import TRANSPORT_KEYS
from knot_fed.runs.results import AFTER, BEFORE, FEDAVG, MEASURES, RESULTS, SETTING_KEYS, traffic
from knot_fed.sweep.grid import Cell
from knot_fed.types import MEAN

Row = dict[str, Any]


def cell_rows(cell: Cell, summary: dict[str, Any]) -> list[Row]:
    """Return the rows of one finished cell: its student after distillation."""
    flat = cell.config.to_mapping()
    described: Row = {setting: flat[key] for setting, key in SETTING_KEYS.items()}
    if cell.config.distill.loss not in TRANSPORT_KEYS:
        described["cost"] = ""
    described["weights"] = cell.config.weights.weighting
    described |= {key: value for key, value in cell.values.items() if key not in SETTING_KEYS.values()}
    described |= {"cell": cell.name, "seed": cell.seed, "line": AFTER} | traffic(summary)
    return [described | metrics for metrics in by_domain(summary, "after")]


def before_rows(cell: Cell, summary: dict[str, Any]) -> list[Row]:
    """Return the rows of the student as it was before distillation, from the first cell that starts so."""
    described: Row = {"seed": cell.seed, "line": BEFORE} | cell.shaping
    return [described | metrics for metrics in by_domain(summary, "before")]


def fedavg_rows(cell: Cell, summary: dict[str, Any]) -> list[Row]:
    """Return the rows of the model that FedAvg trained, from the start that the cell's student has."""
    described: Row = {"seed": cell.seed, "line": FEDAVG} | cell.shaping | traffic(summary)
    return [described | metrics for metrics in by_domain(summary, "after")]


def with_mean(rows: Sequence[Row]) -> list[Row]:
    """Add the mean over domains, each counting the same."""
    mean: Row = {measure: float(np.mean([row[measure] for row in rows])) for measure in MEASURES}
    return [*rows, rows[0] | mean | {"domain": MEAN, "examples": sum(row["examples"] for row in rows)}]


def by_domain(summary: dict[str, Any], when: str) -> list[Row]:
    """Return one row of metrics for each domain, and their mean."""
    return with_mean([{"domain": name} | measured[when] for name, measured in sorted(summary["domains"].items())])


def tidy(rows: Iterable[Row]) -> pd.DataFrame:
    """Put rows in a table, the columns that every sweep has first."""
    table = pd.DataFrame(list(rows))
    extra = [column for column in table.columns if column not in RESULTS]
    return table.reindex(columns=[*RESULTS, *extra])


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a csv file, whole or not at all."""
    write_file(path, table.to_csv(index=False).encode(), mode=SHARED)
