"""`knot-fed frontier`: what privacy costs, from sweeps and audits side by side."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.system.terminal import echo_line, make_console

console = make_console()


def frontier(
    folders: Annotated[list[Path], typer.Argument(help="Folders of sweeps and of audits.", metavar="FOLDER...")],
    out: Annotated[Path, typer.Option(help="Report to write; a csv file goes beside it.")] = Path("frontier.html"),
) -> None:
    """Put sweeps and audits side by side: what each mechanism and epsilon costs, claims and leaks.

    Only runs that share all that shapes their results are compared; an audit of any other run is refused.
    """
    from knot_fed.audit.frontier.report import write_frontier
    from knot_fed.audit.frontier.rows import price_of_privacy
    from knot_fed.audit.frontier.tables import frontier_tables
    from knot_fed.reporting.page import refuse_foreign
    from knot_fed.sweep.results import write_table

    found = price_of_privacy(folders)
    refuse_foreign(out)
    write_frontier(found.table, out, [folder.resolve().name for folder in folders], found.notes)
    write_table(found.table, out.with_suffix(".csv"))
    console.print(*frontier_tables(found.table))
    for note in found.notes:
        echo_line(console, note)
    echo_line(console, str(out))
