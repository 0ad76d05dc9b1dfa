"""`knot-fed`: prepare data, look at a run, and ask its student."""

import json
import shlex
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from knot_fed.audit_cli import audit, frontier
from knot_fed.data.recipes import RECIPES, SUFFIX, find_recipe, prepare_files
from knot_fed.deployment.client_cli import app as client_app
from knot_fed.deployment.credentials_cli import credentials
from knot_fed.deployment.status_cli import status
from knot_fed.deployment.submit import submit
from knot_fed.errors import ModelError, RunFolderError
from knot_fed.models import load_classifier, use_threads
from knot_fed.privacy_cli import privacy
from knot_fed.reporting import RunFolder, summary_table
from knot_fed.reporting.comparison import write_comparison
from knot_fed.reporting.page import refuse_foreign
from knot_fed.reporting.report import write_report
from knot_fed.reporting.results import collect_runs, is_sweep, read_sweep
from knot_fed.sweep_cli import sweep
from knot_fed.teacher import predict_soft_labels
from knot_fed.terminal import make_console, without_traceback
from knot_fed.types import Text

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Prepare data, sweep over grids, look at runs, ask students.",
)
console = make_console(110)
_guarded = partial(without_traceback, "knot-fed")

Run = Annotated[Path, typer.Argument(help="Run folder.")]


@app.command()
@_guarded
def show(run: Run) -> None:
    """Print the tables of a run again."""
    summary = RunFolder.open(run).read_summary()
    console.print(summary_table(summary))
    if summary["error"]:
        console.print(f"the run failed: {summary['error']}", markup=False)


@app.command()
@_guarded
def report(
    runs: Annotated[list[Path], typer.Argument(help="One run folder, several, or one sweep folder.", metavar="RUN...")],
    out: Annotated[Path, typer.Option(help="Report of several runs.")] = Path("comparison-report.html"),
) -> None:
    """Write the report of a run or a sweep into its folder, or one report of several runs."""
    sweeps = [run for run in runs if is_sweep(run)]
    if sweeps and len(runs) > 1:
        raise RunFolderError(f"{sweeps[0]}: is a sweep and stands beside other folders; report each sweep on its own")
    if sweeps:
        file = sweeps[0] / "report.html"
        write_comparison(read_sweep(sweeps[0]), file)
    elif len(runs) == 1:
        file = runs[0] / "report.html"
        write_report(RunFolder.open(runs[0]))
    else:
        file = out
        refuse_foreign(file)
        write_comparison(collect_runs([RunFolder.open(run) for run in runs]), file)
    console.print(str(file), markup=False, highlight=False, soft_wrap=True)


@app.command()
@_guarded
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


app.command("sweep")(_guarded(sweep))
app.command("submit")(_guarded(submit))
app.command("status")(_guarded(status))
app.add_typer(client_app, name="client")
app.add_typer(credentials)
app.add_typer(privacy, name="privacy")
app.command("audit")(_guarded(audit))
app.command("frontier")(_guarded(frontier))


@app.command()
@_guarded
def prepare(
    recipe: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}.")],
    out: Annotated[Path, typer.Argument(help="Folder of the files to write.")],
    limit: Annotated[
        int | None, typer.Option(min=0, help="Most rows of each file; 0: all; else as the recipe says.")
    ] = None,
) -> None:
    """Load a task's data sets from the Hugging Face hub, write one file for each role, and say how to run them.

    RECIPE is amazon (sentiment), silicone (emotion) or nli.
    """
    found = find_recipe(recipe)
    prepared = prepare_files(found, out, limit=limit)
    table = Table("file", "train", "val", "test", caption=f"{prepared.dropped} rows dropped")
    for name, rows in prepared.files.items():
        parts = Counter(row["split"] for row in rows)
        table.add_row(f"{name}{SUFFIX}", *(str(parts[part]) for part in ("train", "val", "test")))
    console.print(table)
    root = shlex.quote(f"data.root={json.dumps(str(out), ensure_ascii=False)}")
    typer.echo(f"flower-simulation --app . --num-supernodes {found.clients} \\")
    typer.echo(f"    --run-config simulations/{found.simulation}.toml --run-config {root}")
