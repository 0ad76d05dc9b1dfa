"""`knot-fed new`: a folder to start a project of one's own from."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.system.terminal import echo_line, make_console

console = make_console()


def new(
    folder: Annotated[Path, typer.Argument(help="Folder to make; it must not exist, or be empty.")],
) -> None:
    """Write a project: a configuration, a data sample, a loss of one's own, and a README that says how to run them."""
    from knot_fed.launch.project import write_project

    write_project(folder)
    echo_line(console, f"{folder}: a project; go on with")
    echo_line(console, f"    cd {folder}")
    echo_line(console, "    flower-simulation run.toml")
