"""The tables of an audit, for the terminal."""

import pandas as pd
from rich.console import Group
from rich.table import Table

from knot_fed.audit.report import summarise_findings


def audit_tables(table: pd.DataFrame) -> Group:
    """Return a table for each attack: each measure's mean over the seeds, with the lowest and the highest."""
    printed = []
    for attack, found in summarise_findings(table).groupby("attack", sort=False):
        measures = list(dict.fromkeys(found["measure"]))
        printed.append(Table("client", "case", *measures, title=f"{attack}: mean over seeds [lowest, highest]"))
        for (client, case), rows in found.groupby(["client", "case"], sort=False):
            values = {
                row["measure"]: f"{row['value']:.3f} [{row['lowest']:.3f}, {row['highest']:.3f}]"
                for row in rows.to_dict("records")
            }
            printed[-1].add_row(str(client), str(case), *(values.get(measure, "") for measure in measures))
    return Group(*printed)
