"""`knot-fed client`: what a data owner calls on its own machine."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from knot_fed.deployment.client_check import NOT_CHECKED, OK, PROBLEM, Finding, check_client
from knot_fed.errors import ConfigError
from knot_fed.federation.pinned_node import app_digest
from knot_fed.overrides import deployed_config, read_override
from knot_fed.terminal import make_console, without_traceback

app = typer.Typer(no_args_is_help=True, help="Check a client on its own machine.")
console = make_console(110)
STYLES = {OK: "green", PROBLEM: "bold red", NOT_CHECKED: "yellow"}


@app.callback()
def client() -> None:
    """Check a client on its own machine."""


@app.command()
@partial(without_traceback, "knot-fed")
def check(
    node_config: Annotated[str, typer.Option(help='As for flower-supernode: \'name="mine" data="/file.csv" ...\'.')],
    run_config: Annotated[list[str] | None, typer.Option(help="TOML file or 'key=value ...'; may repeat.")] = None,
    app_folder: Annotated[Path, typer.Option("--app", help="Folder of the app's pyproject.toml.")] = Path(),
) -> None:
    """Validate a client's file, model, policy and state folder before it joins; starts nothing, uses no network."""
    run = deployed_config(app_folder, run_config or [])
    findings = check_client(run, read_override(node_config, option="--node-config"))
    console.print(_table(findings))
    problems = [finding.check for finding in findings if finding.outcome == PROBLEM]
    if problems:
        raise ConfigError(
            f"{len(problems)} of {len(findings)} checks found a problem: {', '.join(problems)}; mend and check again"
        )


@app.command()
@partial(without_traceback, "knot-fed")
def digest(
    app_folder: Annotated[Path, typer.Option("--app", help="Folder of the app's pyproject.toml.")] = Path(),
) -> None:
    """Print the SHA-256 of the app that `knot-fed submit` sends, for an owner who lets a node run no other."""
    console.print(app_digest(app_folder), highlight=False)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table("check", "outcome", "detail", title="this client")
    for finding in findings:
        style = STYLES[finding.outcome]
        table.add_row(finding.check, f"[{style}]{finding.outcome}[/]", escape(finding.detail))
    return table
