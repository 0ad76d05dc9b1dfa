"""Arguments and options shared by several commands."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TypeAlias

import typer


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"knot-fed {version('knot-fed')}")
        raise typer.Exit
    return asked


Configs: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        help="TOML files and 'key=value key=value' pairs that override the defaults; the last one wins.",
        metavar="[CONFIG]...",
    ),
]
RunConfig: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--run-config", help="Same as CONFIG, under Flower's name; may repeat.", metavar="CONFIG"),
]
App: TypeAlias = Annotated[
    Path | None,
    typer.Option("--app", help="Folder of an app with a pyproject.toml, instead of the installed one."),
]
Clients: TypeAlias = Annotated[
    int, typer.Option("--num-supernodes", min=0, help="Number of virtual clients; 0: one for each private file.")
]
Version: TypeAlias = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
]
Jobs: TypeAlias = Annotated[int, typer.Option(min=0, help="Parallel jobs, each on one CPU; 0: one for each CPU.")]
Seeds: TypeAlias = Annotated[
    str, typer.Option(help="A number (5: seeds 1 to 5), or a list with a comma (3,7; '7,' is seed 7 alone).")
]
RayAddress: TypeAlias = Annotated[
    str,
    typer.Option(
        envvar="RAY_ADDRESS",
        metavar="HOST:PORT",
        help="Head of the Ray cluster that runs the clients; empty: this machine.",
    ),
]
Resume: TypeAlias = Annotated[str, typer.Option(help="Name or folder of an interrupted run to resume.", metavar="RUN")]
Verbose: TypeAlias = Annotated[bool, typer.Option("--verbose", help="Show Flower's own log.")]
SuperLink: TypeAlias = Annotated[str, typer.Option(help="The SuperLink's HTTP API, HOST:PORT.")]
RootCertificates: TypeAlias = Annotated[
    Path, typer.Option(help="PEM file of the authority that signed its certificate.")
]
Insecure: TypeAlias = Annotated[bool, typer.Option("--insecure", help="No TLS; on loopback only.")]


def given(configs: list[str] | None, run_config: list[str] | None) -> list[str]:
    """Return all configuration arguments, positional ones first."""
    return [*(configs or []), *(run_config or [])]


def study_folder(parent: str, overrides: list[str], out: Path | None) -> Path:
    """Return the folder of a study: `out`, or one named after the last TOML file.

    Examples
    --------
    >>> study_folder("sweeps", ["simulations/nli.toml", "seed=2"], None).as_posix()
    'sweeps/nli'
    """
    files = [Path(text).stem for text in overrides if text.endswith(".toml")]
    return out or Path(parent) / (files[-1] if files else "builtin")
