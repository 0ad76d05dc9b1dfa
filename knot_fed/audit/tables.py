"""The tables of an audit, for the terminal."""

import pandas as pd
from rich.console import Group

from knot_fed.audit.report import summarise_findings
from knot_fed.runs.narrow import narrow_table, rounded


def audit_tables(table: pd.DataFrame) -> Group:
    """Return a table for each attack: mean, lowest and highest value of each measure over the seeds."""
    return Group(
        *(
            narrow_table(
                ["client", "case", "measure"],
                ["mean", "lowest", "highest", "seeds"],
                rows=[
                    [
                        *(row[key] for key in ("client", "case", "measure")),
                        *(rounded(row[key]) for key in ("value", "lowest", "highest")),
                        row["seeds"],
                    ]
                    for row in found.to_dict("records")
                ],
                title=f"{attack}: over seeds",
            )
            for attack, found in summarise_findings(table).groupby("attack", sort=False)
        )
    )
