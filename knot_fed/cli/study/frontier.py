"""`knot-fed frontier`: the price of privacy, from sweeps and audits."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.system.terminal import echo_line, make_console

console = make_console()


def frontier(
    folders: Annotated[list[Path], typer.Argument(help="Folders of sweeps and of audits.", metavar="FOLDER...")],
    out: Annotated[Path, typer.Option(help="Report to write, with a CSV file beside it.")] = Path("frontier.html"),
) -> None:
    """Compare sweeps and audits: the cost, claimed guarantee and leakage of each mechanism and epsilon.

    Only runs that share every setting that affects results are compared; audits of other runs are refused.
    """
    from knot_fed.audit.folder import AUDIT_FILE
    from knot_fed.audit.frontier.report import write_frontier
    from knot_fed.audit.frontier.rows import price_of_privacy
    from knot_fed.audit.frontier.tables import frontier_tables
    from knot_fed.reporting.page import refuse_foreign
    from knot_fed.runs.results import is_sweep, study_facts
    from knot_fed.sweep.folder import SWEEP_FILE
    from knot_fed.sweep.results import write_table

    found = price_of_privacy(folders)
    refuse_foreign(out)
    facts = [
        (f"{folder.resolve().name}: {name}", value)
        for folder in folders
        for name, value in study_facts(folder, SWEEP_FILE if is_sweep(folder) else AUDIT_FILE)
    ]
    write_frontier(found.table, out, [folder.resolve().name for folder in folders], found.notes, facts)
    write_table(found.table, out.with_suffix(".csv"))
    console.print(*frontier_tables(found.table))
    for note in found.notes:
        echo_line(console, note)
    echo_line(console, str(out))
