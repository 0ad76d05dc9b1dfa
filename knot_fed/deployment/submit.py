"""`knot-fed submit`: one run on a deployed SuperLink, watched from outside until its end."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.config import RunConfig
from knot_fed.deployment.superlink import check_superlink
from knot_fed.errors import FederationError
from knot_fed.models import check_model_name
from knot_fed.overrides import deployed_config, resuming
from knot_fed.processes import private_folder
from knot_fed.reporting import summary_table
from knot_fed.submission import Connection, Submitter, flower_home, stage_app
from knot_fed.terminal import make_console

console = make_console(110)

SuperLink = Annotated[str, typer.Option(help="The SuperLink's HTTP API, HOST:PORT.")]
RootCertificates = Annotated[Path, typer.Option(help="PEM file of the authority that signed its certificate.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="No TLS; on loopback only.")]


def submit(
    app: Annotated[Path, typer.Option(help="Folder of the app's pyproject.toml.")] = Path(),
    run_config: Annotated[list[str] | None, typer.Option(help="TOML file or 'key=value ...'; may repeat.")] = None,
    superlink: SuperLink = "127.0.0.1:9093",
    root_certificates: RootCertificates = Path("credentials/ca.crt"),
    insecure: Insecure = False,
    federation: Annotated[str, typer.Option(help="Flower's federation, @account/name; empty: the default.")] = "",
    resume: Annotated[str, typer.Option(help="Name of a run cut short, to go on with.", metavar="RUN")] = "",
    verbose: Annotated[bool, typer.Option(help="Show Flower's own log.")] = False,
) -> None:
    """Run a federation of real clients, print the table, and return non-zero when the run failed.

    Paths in the configuration are those of the server's machine, and are taken as written.
    """
    config = deployed_config(app, resuming(run_config, resume))
    _check(config)
    connection = Connection(superlink, None if insecure else root_certificates, insecure, federation)
    for warning in check_superlink(connection):
        typer.echo(f"knot-fed: {warning}", err=True)
    with private_folder() as home:
        bundle = stage_app(app.resolve(), home / "app")
        submitter = Submitter(bundle, home, flower_home(home, connection))
        table = submitter.run(config, echo=_echo, verbose=verbose)
    folder = Path(config.runs_dir) / config.name
    if table is None:
        raise FederationError(
            f"the run completed but its log lacks the result; read it on the server with knot-fed show {folder}"
        )
    console.print(summary_table(table))
    console.print(f"run folder on the server: {folder}", soft_wrap=True)


def _check(config: RunConfig) -> None:
    """Refuse what could only fail, as far as it shows without the server's files."""
    config.label_space()
    for model in (config.model, config.student_model):
        check_model_name(model)


def _echo(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
