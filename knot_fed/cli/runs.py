"""`knot-fed show`, `report` and `predict`: the results of a run."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.errors import ModelError, RunFolderError
from knot_fed.system.terminal import echo_line, make_console

console = make_console()

Run = Annotated[Path, typer.Argument(help="Run folder.")]


def show(run: Run) -> None:
    """Print the tables of a run again."""
    from knot_fed.runs.run_folder import RunFolder
    from knot_fed.runs.tables import summary_table

    summary = RunFolder.open(run).read_summary()
    console.print(summary_table(summary))
    if summary["error"]:
        echo_line(console, f"the run failed: {summary['error']}")


def report(
    runs: Annotated[list[Path], typer.Argument(help="One run folder, several, or one sweep folder.", metavar="RUN...")],
    out: Annotated[Path, typer.Option(help="Report of several runs.")] = Path("comparison-report.html"),
) -> None:
    """Write the report of a run, with its model card, or of a sweep into its folder, or one report of several runs."""
    from knot_fed.models import SPEC_FILE
    from knot_fed.publishing.card import write_run_card
    from knot_fed.reporting.comparison import write_comparison
    from knot_fed.reporting.page import refuse_foreign
    from knot_fed.reporting.report import write_report
    from knot_fed.runs.results import collect_runs, is_sweep, read_sweep
    from knot_fed.runs.run_folder import RunFolder

    sweeps = [run for run in runs if is_sweep(run)]
    if sweeps and len(runs) > 1:
        raise RunFolderError(f"{sweeps[0]}: a sweep cannot be combined with other folders; report each sweep alone")
    if sweeps:
        file = sweeps[0] / "report.html"
        write_comparison(read_sweep(sweeps[0]), file)
    elif len(runs) == 1:
        file, run = runs[0] / "report.html", RunFolder.open(runs[0])
        write_report(run)
        if (run.student / SPEC_FILE).is_file():
            write_run_card(run)
    else:
        file = out
        refuse_foreign(file)
        write_comparison(collect_runs([RunFolder.open(run) for run in runs]), file)
    echo_line(console, str(file))


def predict(
    run: Run,
    text: Annotated[str, typer.Option(help="The text, or the first of a pair.")],
    text_b: Annotated[str | None, typer.Option(help="The second text of a pair.")] = None,
) -> None:
    """Print the student's distribution over the labels."""
    from knot_fed.models import load_classifier, use_threads
    from knot_fed.runs.narrow import narrow_table
    from knot_fed.runs.run_folder import RunFolder
    from knot_fed.training.teacher import predict_soft_labels

    use_threads(0)
    student = load_classifier(RunFolder.open(run).student)
    if student.spec.paired and text_b is None:
        raise ModelError("the student reads pairs, but --text-b is missing; give --text and --text-b")
    question = (text, text_b) if text_b is not None else text
    shares = predict_soft_labels(student, [question])[0]
    rows = [[name, f"{share:.4f}"] for name, share in zip(student.spec.labels, shares, strict=True)]
    console.print(narrow_table(["label"], ["probability"], rows=rows))
