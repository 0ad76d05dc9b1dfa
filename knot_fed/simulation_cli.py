"""`flower-simulation`: virtual clients on one machine, on top of the supported `flwr run`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from knot_fed.overrides import resolve_config, resuming
from knot_fed.preflight import check_run
from knot_fed.reporting import RunFolder, summary_table
from knot_fed.simulation import federation_settings, simulator
from knot_fed.terminal import make_console, without_traceback

console = make_console(110)


class Strategy(StrEnum):
    """What the server does with the clients: our own distillation, or the reference line."""

    KNOT = "knot"
    FEDAVG = "fedavg"


def main() -> None:
    """Run the command."""
    typer.run(without_traceback("flower-simulation", simulate))


def simulate(
    app: Annotated[Path, typer.Option(help="Folder of the app's pyproject.toml.")] = Path(),
    num_supernodes: Annotated[int, typer.Option(min=1, help="Number of virtual clients.")] = 3,
    run_config: Annotated[list[str] | None, typer.Option(help="TOML file or 'key=value ...'; may repeat.")] = None,
    backend_config: Annotated[str, typer.Option(help="JSON: client_resources and init_args.")] = "{}",
    strategy: Annotated[Strategy, typer.Option(help="Distillation, or federated averaging.")] = Strategy.KNOT,
    resume: Annotated[str, typer.Option(help="Name of a run cut short, to go on with.", metavar="RUN")] = "",
    verbose: Annotated[bool, typer.Option(help="Show Flower's own log.")] = False,
) -> None:
    """Run a federation of virtual clients, print the table, and return non-zero when the run failed."""
    overrides = resuming(run_config, resume)
    config = resolve_config(app, overrides, num_supernodes=num_supernodes)
    check_run(config, clients=num_supernodes)
    resources = federation_settings(backend_config, num_supernodes=num_supernodes)
    with simulator(app.resolve(), strategy=strategy) as running:
        running.run(config, resources, echo=_echo, verbose=verbose)
    folder = RunFolder.open(Path(config.runs_dir) / config.name)
    console.print(summary_table(folder.read_summary()))
    console.print(f"run folder: {folder.path}", soft_wrap=True)


def _echo(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
