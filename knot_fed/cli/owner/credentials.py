"""`knot-fed credentials`: make, list, renew and register what the machines of a federation know each other by."""

from pathlib import Path
from typing import Annotated

import typer

from knot_fed.cli.boundary import guarded
from knot_fed.system.terminal import echo_line, make_console

credentials = typer.Typer(
    name="credentials", no_args_is_help=True, help="Make, list, renew and register certificates and node keys."
)
console = make_console()

Folder = Annotated[Path, typer.Option("--out", help="Folder of the credentials.")]
Days = Annotated[int, typer.Option(min=1, max=36_500, help="Days that the server certificate is valid.")]


@credentials.command()
@guarded
def init(
    clients: Annotated[str, typer.Option(help="Names of the nodes, with commas.")],
    out: Folder = Path("credentials"),
    host: Annotated[list[str] | None, typer.Option(help="The server's name or address as seen by nodes.")] = None,
    days: Days = 365,
    env_file: Annotated[Path, typer.Option(help="File that docker compose reads its settings from.")] = Path(".env"),
) -> None:
    """Make an authority, the server's certificate and one key pair for each node; nothing is ever overwritten."""
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
    public_key: Annotated[Path | None, typer.Option(help="Public key that the node's owner has made.")] = None,
) -> None:
    """Add one node; then register it."""
    from knot_fed.deployment.credentials import add_node

    add_node(out, name, public_key=public_key)
    _print_table(out)


@credentials.command()
@guarded
def show(out: Folder = Path("credentials")) -> None:
    """Print what is there and until when it is valid."""
    _print_table(out)


@credentials.command()
@guarded
def renew(out: Folder = Path("credentials"), days: Days = 365) -> None:
    """Put a new key and certificate in the place of the server's; then restart the server."""
    from knot_fed.deployment.credentials import renew_server_certificate

    renew_server_certificate(out, days=days)
    _print_table(out)


@credentials.command()
@guarded
def register(
    out: Folder = Path("credentials"),
    superlink: Annotated[str, typer.Option(help="Address of the SuperLink.")] = "127.0.0.1:9093",
) -> None:
    """Tell the SuperLink the public key of each node that it does not know yet."""
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
