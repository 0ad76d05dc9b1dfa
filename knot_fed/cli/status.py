"""`knot-fed status`: nodes and runs of a federation, as tables or JSON."""

import json
from pathlib import Path
from typing import Annotated

import typer

from knot_fed.cli.options import Insecure, RootCertificates, SuperLink
from knot_fed.system.terminal import make_console

console = make_console()


def status(
    run: Annotated[Path | None, typer.Argument(help="Run folder on this machine; default: ask the SuperLink.")] = None,
    superlink: SuperLink = "127.0.0.1:9093",
    root_certificates: RootCertificates = Path("credentials/ca.crt"),
    insecure: Insecure = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show nodes and runs: which nodes are online, the current round, bytes so far and the time left."""
    from knot_fed.deployment.status import folder_status, superlink_status
    from knot_fed.deployment.status_tables import status_tables
    from knot_fed.launch.submission import Connection

    connection = Connection(superlink, None if insecure else root_certificates, insecure)
    found = folder_status(run) if run is not None else superlink_status(connection)
    if as_json:
        typer.echo(json.dumps(found, sort_keys=True))
    else:
        console.print(status_tables(found, with_nodes=run is None))
