"""`flower-simulation`: runs virtual clients on one machine through `flwr run`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from knot_fed.cli.boundary import without_traceback
from knot_fed.cli.options import App, Clients, Configs, RayAddress, Resume, RunConfig, Verbose, Version, given
from knot_fed.system.terminal import echo_line, make_console

console = make_console()


VIRTUAL_OWNERS = 3
"""Virtual clients among whom a single file is dealt by default."""


class Strategy(StrEnum):
    """The server's strategy: distillation, or the federated averaging baseline."""

    KNOT = "knot"
    FEDAVG = "fedavg"


def command() -> typer.Typer:
    """Return the command, with its error boundary."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(without_traceback("flower-simulation", simulate))
    return app


def main() -> None:
    """Run the command."""
    command()()


def simulate(
    configs: Configs = None,
    app: App = None,
    num_supernodes: Clients = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            help="One labelled file, dealt to virtual clients (3 by default), the server and the transfer set.",
            metavar="FILE",
        ),
    ] = None,
    run_config: RunConfig = None,
    backend_config: Annotated[str, typer.Option(help="JSON: client_resources and init_args.")] = "{}",
    strategy: Annotated[Strategy, typer.Option(help="Distillation, or federated averaging.")] = Strategy.KNOT,
    ray_address: RayAddress = "",
    resume: Resume = "",
    verbose: Verbose = False,
    _: Version = False,
) -> None:
    """Run a federation of virtual clients and print its tables; exits non-zero if the run fails."""
    from knot_fed.config.overrides import resolve_config, resuming
    from knot_fed.launch.bundle import runs_own_components
    from knot_fed.launch.cluster import check_ray_address
    from knot_fed.launch.simulation import federation_settings, simulator
    from knot_fed.preflight import check_run, check_run_folder
    from knot_fed.preflight.unread import unread_settings
    from knot_fed.runs.run_folder import RunFolder
    from knot_fed.runs.tables import summary_table

    overrides = resuming(given(configs, run_config), resume)
    if data is not None:
        num_supernodes = num_supernodes or VIRTUAL_OWNERS
        overrides = [str(_deal(data, overrides, num_supernodes)), *overrides]
    config = resolve_config(app, overrides, num_supernodes=num_supernodes)
    clients = num_supernodes or len(config.data.client_names)
    resources = federation_settings(backend_config, num_supernodes=clients, ray_address=ray_address)
    check_ray_address(ray_address)
    check_run_folder(config)
    notes = check_run(config, clients=clients)
    averages = strategy is Strategy.FEDAVG or (app is not None and not runs_own_components(app))
    for note in [*unread_settings([config], averages=averages), *notes]:
        echo_line(console, f"note: {note}")
    with simulator(app, strategy=strategy, ray_address=ray_address) as running:
        running.run(config, resources, echo=lambda line: echo_line(console, line), verbose=verbose)
    folder = RunFolder.open(Path(config.runs_dir) / config.name)
    console.print(summary_table(folder.read_summary()))
    echo_line(console, f"report: {folder.path / 'report.html'}")
    echo_line(console, f"run folder: {folder.path}")


def _deal(file: Path, overrides: list[str], clients: int) -> Path:
    """Deal a file into a folder in the current one, say so, and return its configuration."""
    from knot_fed.config import RunConfig as Run
    from knot_fed.config.overrides import read_override
    from knot_fed.data.dealt import deal_file, dealt_folder

    known = {key: value for text in overrides for key, value in read_override(text).items()}
    Run.from_mapping(known)
    dealt = deal_file(file, dealt_folder(file), known, clients=clients)
    parts = ", ".join(f"{role} {rows}" for role, rows in dealt.rows.items())
    for note in (*dealt.notes, f"{file.name} is dealt into {dealt.folder}, in rows: {parts}"):
        echo_line(console, f"note: {note}")
    return dealt.configuration
