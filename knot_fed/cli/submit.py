"""`knot-fed submit`: runs the app on a deployed SuperLink and waits for its end."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.cli.options import (
    App,
    Configs,
    Insecure,
    Resume,
    RootCertificates,
    RunConfig,
    SuperLink,
    Verbose,
    given,
)
from knot_fed.errors import FederationError
from knot_fed.system.terminal import echo_line, make_console

console = make_console()


def submit(
    configs: Configs = None,
    app: App = None,
    run_config: RunConfig = None,
    superlink: SuperLink = "127.0.0.1:9093",
    root_certificates: RootCertificates = Path("credentials/ca.crt"),
    insecure: Insecure = False,
    federation: Annotated[str, typer.Option(help="Flower's federation, @account/name; empty: the default.")] = "",
    resume: Resume = "",
    verbose: Verbose = False,
) -> None:
    """Run a federation of real clients and print its tables; exits non-zero if the run fails.

    Paths in the configuration are those of the server's machine, used as written.
    """
    from knot_fed.config.overrides import deployed_config, resuming
    from knot_fed.deployment.superlink import check_superlink
    from knot_fed.launch.bundle import stage_app
    from knot_fed.launch.submission import Connection, Submitter, flower_home
    from knot_fed.preflight import check_deployed_run
    from knot_fed.preflight.unread import unread_settings
    from knot_fed.runs.tables import summary_table
    from knot_fed.system.processes import private_folder

    config = deployed_config(app, resuming(given(configs, run_config), resume))
    notes = check_deployed_run(config)
    connection = Connection(superlink, None if insecure else root_certificates, insecure, federation)
    for warning in check_superlink(connection):
        typer.echo(f"knot-fed: {warning}", err=True)
    for note in [*unread_settings([config]), *notes]:
        echo_line(console, f"note: {note}")
    with private_folder() as home:
        submitter = Submitter(stage_app(app, home / "app"), home, flower_home(home, connection))
        table = submitter.run(config, echo=lambda line: echo_line(console, line), verbose=verbose)
    folder = Path(config.runs_dir) / config.name
    if table is None:
        raise FederationError(
            f"the run completed but its log lacks the result; read it on the server with knot-fed show {folder}"
        )
    console.print(summary_table(table))
    echo_line(console, f"run folder on the server: {folder}")
