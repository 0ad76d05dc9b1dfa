"""What a run leaves behind: its folder, its tables and its scalars; `report`, which loads matplotlib, stands apart."""

from knot_fed.reporting.run_folder import RunFolder
from knot_fed.reporting.scalars import write_scalars
from knot_fed.reporting.tables import summary_table, table_facts

__all__ = ["RunFolder", "summary_table", "table_facts", "write_scalars"]
