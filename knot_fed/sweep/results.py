"""The tidy table of a sweep: one row for each line, seed and domain."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from knot_fed.files import SHARED, write_file
from knot_fed.losses import TRANSPORT_KEYS
from knot_fed.runs.results import AFTER, BEFORE, FEDAVG, MEASURES, RESULTS, SETTING_KEYS, means_per_client
from knot_fed.sweep.grid import Cell
from knot_fed.types import MEAN

Row = dict[str, Any]


def cell_rows(cell: Cell, summary: dict[str, Any]) -> list[Row]:
    """Return the rows of one finished cell, its student after distillation."""
    flat = cell.config.to_mapping()
    described: Row = {setting: flat[key] for setting, key in SETTING_KEYS.items()}
    if cell.config.distill.loss not in TRANSPORT_KEYS and "transport.cost" not in cell.values:
        described["cost"] = ""
    described["weights"] = cell.config.weights.weighting
    described |= {key: value for key, value in cell.values.items() if key not in SETTING_KEYS.values()}
    described |= {"cell": cell.name, "seed": cell.seed, "line": AFTER} | means_per_client(summary)
    return _by_domain(described, summary, "after")


def before_rows(cell: Cell, summary: dict[str, Any]) -> list[Row]:
    """Return the rows of the student before distillation, from the first cell with this start."""
    return _by_domain({"seed": cell.seed, "line": BEFORE} | cell.shaping, summary, "before")


def fedavg_rows(cell: Cell, summary: dict[str, Any]) -> list[Row]:
    """Return the rows of the FedAvg model, which starts like the cell's student."""
    return _by_domain({"seed": cell.seed, "line": FEDAVG} | cell.shaping | means_per_client(summary), summary, "after")


def with_mean(rows: Sequence[Row]) -> list[Row]:
    """Add the unweighted mean over domains."""
    mean: Row = {measure: float(np.mean([row[measure] for row in rows])) for measure in MEASURES}
    return [*rows, rows[0] | mean | {"domain": MEAN, "examples": sum(row["examples"] for row in rows)}]


def _by_domain(described: Row, summary: dict[str, Any], when: str) -> list[Row]:
    rows = [{"domain": name} | measured[when] for name, measured in sorted(summary["domains"].items())]
    return [described | metrics for metrics in with_mean(rows)]


def tidy(rows: Iterable[Row]) -> pd.DataFrame:
    """Return a table of the rows, with the common columns first."""
    table = pd.DataFrame(list(rows))
    return table.reindex(columns=list(dict.fromkeys([*RESULTS, *table.columns])))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a csv file atomically."""
    write_file(path, table.to_csv(index=False).encode(), mode=SHARED)
