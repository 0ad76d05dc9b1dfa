"""What a run leaves behind: its folder, its tables, its report and its scalars."""

from knot_fed.reporting.report import write_report
from knot_fed.reporting.run_folder import RunFolder
from knot_fed.reporting.scalars import write_scalars
from knot_fed.reporting.tables import summary_table, table_facts

__all__ = ["RunFolder", "summary_table", "table_facts", "write_report", "write_scalars"]
