"""`knot-fed credentials`: creates, lists, renews and registers certificates and node keys."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.cli.boundary import guarded
from knot_fed.system.terminal import echo_line, make_console

credentials = typer.Typer(
    name="credentials", no_args_is_help=True, help="Create, list, renew and register certificates and node keys."
)
console = make_console()

Folder = Annotated[Path, typer.Option("--out", help="Folder of the credentials.")]
Days = Annotated[int, typer.Option(min=1, max=36_500, help="Days that the server certificate is valid.")]


@credentials.command()
@guarded
def init(
    clients: Annotated[str, typer.Option(help="Names of the nodes, with commas.")],
    out: Folder = Path("credentials"),
    host: Annotated[list[str] | None, typer.Option(help="Name or address by which nodes reach the server.")] = None,
    days: Days = 365,
    env_file: Annotated[Path, typer.Option(help="File from which docker compose reads settings.")] = Path(".env"),
) -> None:
    """Create an authority, the server's certificate and a key pair for each node; never overwrites a file."""
    from knot_fed.deployment.credentials import create_credentials
    from knot_fed.deployment.environment import add_settings

    names = [name.strip() for name in clients.split(",") if name.strip()]
    user, group = create_credentials(out, names, hosts=host or [], days=days)
    add_settings(env_file, {"COMPOSE_PROFILES": "cpu", "KNOT_FED_USER": f"{user}:{group}"})
    _print_table(out)


@credentials.command()
@guarded
def add(
    name: Annotated[str, typer.Argument(help="Name of the new node.")],
    out: Folder = Path("credentials"),
    public_key: Annotated[Path | None, typer.Option(help="Public key created by the node's owner.")] = None,
) -> None:
    """Add one node; then register it."""
    from knot_fed.deployment.credentials import add_node

    add_node(out, name, public_key=public_key)
    _print_table(out)


@credentials.command()
@guarded
def show(out: Folder = Path("credentials")) -> None:
    """List the credentials and their validity."""
    _print_table(out)


@credentials.command()
@guarded
def renew(out: Folder = Path("credentials"), days: Days = 365) -> None:
    """Replace the server's key and certificate; then restart the server."""
    from knot_fed.deployment.credentials import renew_server_certificate

    renew_server_certificate(out, days=days)
    _print_table(out)


@credentials.command()
@guarded
def register(
    out: Folder = Path("credentials"),
    superlink: Annotated[str, typer.Option(help="Address of the SuperLink.")] = "127.0.0.1:9093",
) -> None:
    """Register the public keys of new nodes with the SuperLink."""
    from knot_fed.deployment.credentials import public_keys, read_public_key
    from knot_fed.federation.flower.registration import register_nodes

    keys = {name: read_public_key(path) for name, path in public_keys(out).items()}
    outcomes = register_nodes(keys, superlink=superlink, authority=out / "ca.crt")
    for name, outcome in outcomes.items():
        echo_line(console, f"{name}: {outcome}")


def _print_table(folder: Path) -> None:
    from knot_fed.deployment.credentials import list_credentials
    from knot_fed.deployment.owner_tables import credentials_table

    console.print(credentials_table(list_credentials(folder)))
