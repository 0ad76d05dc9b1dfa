"""`knot-fed`: look at a run, and ask its student."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from knot_fed.errors import KnotError, ModelError
from knot_fed.models import load_classifier, use_threads
from knot_fed.reporting import RunFolder, summary_table
from knot_fed.teacher import predict_soft_labels
from knot_fed.types import Text

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Look at runs and ask their students.")
console = Console(width=None if sys.stdout.isatty() else 110)

Run = Annotated[Path, typer.Argument(help="Run folder.")]


def _without_traceback(command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def guarded(*args: object, **options: object) -> None:
        try:
            command(*args, **options)
        except KnotError as error:
            typer.echo(f"knot-fed: {error}", err=True)
            sys.exit(1)

    return guarded


@app.command()
@_without_traceback
def show(run: Run) -> None:
    """Print the tables of a run again."""
    summary = RunFolder.open(run).read_summary()
    console.print(summary_table(summary))
    if summary["error"]:
        console.print(f"the run failed: {summary['error']}", markup=False)


@app.command()
@_without_traceback
def predict(
    run: Run,
    text: Annotated[str, typer.Option(help="The text, or the first of a pair.")],
    text_b: Annotated[str | None, typer.Option(help="The second text of a pair.")] = None,
) -> None:
    """Print the student's distribution over the labels."""
    use_threads(0)
    student = load_classifier(RunFolder.open(run).student)
    if student.spec.paired and text_b is None:
        raise ModelError("the student reads pairs and --text-b is missing; give --text and --text-b")
    question: Text = (text, text_b) if text_b is not None else text
    table = Table("label", "probability")
    for name, probability in zip(student.spec.labels, predict_soft_labels(student, [question])[0], strict=True):
        table.add_row(name, f"{probability:.4f}")
    console.print(table)
