"""`knot-fed new`: writes a project to start from."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.system.terminal import echo_line, make_console

console = make_console()


def new(
    folder: Annotated[Path, typer.Argument(help="Folder to create; must not exist or be empty.")],
) -> None:
    """Write a project: a configuration, a data sample, a custom loss, and a README with the commands to run."""
    from knot_fed.launch.project import write_project

    write_project(folder)
    echo_line(console, f"{folder}: project created; next run")
    echo_line(console, f"    cd {folder}")
    echo_line(console, "    flower-simulation run.toml")
