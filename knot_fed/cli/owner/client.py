"""`knot-fed client`: commands for a data owner's machine."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.cli.boundary import guarded
from knot_fed.cli.options import App, Configs, RunConfig, given
from knot_fed.errors import ConfigError
from knot_fed.system.terminal import echo_line, make_console

app = typer.Typer(no_args_is_help=True, help="Check a client on its own machine, and use its personal model.")
console = make_console()


@app.callback()
def client() -> None:
    """Check a client on its own machine, and use its personal model."""


@app.command()
@guarded
def check(
    node_config: Annotated[str, typer.Option(help='As for flower-supernode: \'name="mine" data="/file.csv" ...\'.')],
    configs: Configs = None,
    run_config: RunConfig = None,
    app_folder: App = None,
) -> None:
    """Validate a client's file, model, policy and state folder before it joins; starts nothing, uses no network."""
    from knot_fed.config import NodeConfig
    from knot_fed.config.overrides import deployed_config, read_override
    from knot_fed.deployment.client_check import PROBLEM, check_client
    from knot_fed.deployment.owner_tables import findings_table

    run = deployed_config(app_folder, given(configs, run_config))
    findings = check_client(run, read_override(node_config, option="--node-config", schema=NodeConfig))
    console.print(findings_table(findings))
    problems = [finding.check for finding in findings if finding.outcome == PROBLEM]
    if problems:
        raise ConfigError(
            f"{len(problems)} of {len(findings)} checks found a problem: {', '.join(problems)}; correct and check again"
        )


@app.command()
@guarded
def predict(
    folder: Annotated[Path, typer.Argument(help="The client's state-dir, or its folder personal.")],
    file: Annotated[Path, typer.Argument(help="Texts to label: csv, tsv, jsonl or parquet.")],
    out: Annotated[Path | None, typer.Option(help="File to write, csv, tsv or jsonl; default: FILE-labelled.")] = None,
    text: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    text_a: Annotated[str, typer.Option(help="Column of the first texts of pairs.")] = "text_a",
    text_b: Annotated[str, typer.Option(help="Column of the second texts of pairs.")] = "text_b",
    separator: Annotated[str, typer.Option(help="As data.separator.")] = "",
    delimiter: Annotated[str, typer.Option(help="As data.delimiter.")] = "",
) -> None:
    """Label the texts of a file with a client's personal model; uses no network."""
    from knot_fed.config.fields import is_delimiter
    from knot_fed.data.private import Columns
    from knot_fed.deployment.labelling import label_file
    from knot_fed.models import use_threads

    if not is_delimiter(delimiter):
        raise ConfigError(f"--delimiter {delimiter!r}: use one character, such as ';' or $'\\t', and no quotation mark")
    use_threads(0)
    columns = Columns(text=text, text_a=text_a, text_b=text_b, separator=separator, delimiter=delimiter)
    echo_line(console, str(label_file(folder, file, out, columns=columns)))


@app.command()
@guarded
def digest(app_folder: App = None) -> None:
    """Print the SHA-256 of the app that `knot-fed submit` sends, to pin it on a node."""
    from knot_fed.federation.flower.pinned_node import app_digest

    echo_line(console, app_digest(app_folder))
