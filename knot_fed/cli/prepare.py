"""`knot-fed prepare`: downloads the paper's data sets from the hub and writes them as files."""

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from knot_fed.system.terminal import make_console

console = make_console()


def prepare(
    recipe: Annotated[str, typer.Argument(help="One of amazon, silicone and nli.")],
    out: Annotated[Path, typer.Argument(help="Folder of the files to write.")],
    limit: Annotated[
        int | None, typer.Option(min=0, help="Maximum rows of each file; 0: all; default: the recipe's.")
    ] = None,
) -> None:
    """Download the data sets of a task from the Hugging Face hub, write one file for each role, and print the command.

    RECIPE is amazon (sentiment), silicone (emotion) or nli.
    """
    from knot_fed.data.prepare.recipes import SUFFIX, find_recipe, prepare_files
    from knot_fed.runs.narrow import narrow_table

    found = find_recipe(recipe)
    prepared = prepare_files(found, out, limit=limit)
    counted = {name: Counter(row["split"] for row in rows) for name, rows in prepared.files.items()}
    parts = ("train", "val", "test")
    rows = [[f"{name}{SUFFIX}", *(counts[part] for part in parts)] for name, counts in counted.items()]
    console.print(narrow_table(["file"], parts, rows=rows, caption=f"{prepared.dropped} rows dropped"))
    root = shlex.quote(f"data.root={json.dumps(str(out), ensure_ascii=False)}")
    typer.echo(f"flower-simulation --num-supernodes {found.clients} \\")
    typer.echo(f"    --run-config simulations/{found.simulation}.toml --run-config {root}")
