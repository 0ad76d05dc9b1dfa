"""The tables of an audit, for the terminal."""

from collections.abc import Hashable
from typing import Any

import pandas as pd
from rich.console import Group

from knot_fed.audit.report import summarise_findings
from knot_fed.runs.narrow import narrow_table, rounded


def audit_tables(table: pd.DataFrame) -> Group:
    """Return a table for each attack: mean, lowest and highest value of each measure over the seeds."""
    words, numbers = ["client", "case", "measure"], ["mean", "lowest", "highest", "seeds"]

    def cells(row: dict[Hashable, Any]) -> list[Any]:
        return [
            *(row[key] for key in words),
            *map(rounded, (row["value"], row["lowest"], row["highest"])),
            row["seeds"],
        ]

    found = summarise_findings(table).groupby("attack", sort=False)
    return Group(
        *(
            narrow_table(words, numbers, rows=map(cells, rows.to_dict("records")), title=f"{attack}: over seeds")
            for attack, rows in found
        )
    )
