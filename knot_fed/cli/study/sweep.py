"""`knot-fed sweep`: a grid of runs over several seeds, with baselines, intervals and verdicts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knot_fed.cli.options import App, Clients, Configs, Jobs, RayAddress, RunConfig, Seeds, given, study_folder
from knot_fed.system.terminal import echo_line, make_console, progress_on

if TYPE_CHECKING:
    import pandas as pd

console = make_console()


def sweep(
    configs: Configs = None,
    seeds: Seeds = "5",
    grid: Annotated[str, typer.Option(help="'key=value,value key=value,value': runs all combinations.")] = "",
    methods: Annotated[
        str | None, typer.Option(help="Names in simulations/methods, or TOML files: one cell each.")
    ] = None,
    run_config: RunConfig = None,
    app: App = None,
    num_supernodes: Clients = 0,
    out: Annotated[Path | None, typer.Option(help="Sweep folder; default: sweeps/<name of the TOML file>.")] = None,
    jobs: Jobs = 0,
    ray_address: RayAddress = "",
    fedavg: Annotated[bool, typer.Option(help="Also run FedAvg of the same student, once for each seed.")] = True,
) -> None:
    """Run a grid, or methods of the field, over several seeds; called again, it resumes where it stopped."""
    from knot_fed.config import NO_MECHANISM
    from knot_fed.config.overrides import resolve_config
    from knot_fed.launch.cluster import check_ray_address
    from knot_fed.preflight import check_run
    from knot_fed.preflight.unread import unread_settings
    from knot_fed.runs.results import SETTING_KEYS
    from knot_fed.runs.sweep_tables import METHOD
    from knot_fed.sweep.folder import SweepFolder
    from knot_fed.sweep.grid import make_cells, parse_grid, parse_seeds
    from knot_fed.sweep.methods import lay_methods, read_methods, settings_of_study
    from knot_fed.sweep.run import Sweep, run_sweep
    from knot_fed.system.machine import usable_cpus

    overrides = given(configs, run_config)
    study = resolve_config(app, overrides, num_supernodes=num_supernodes)
    base, named, averaged = lay_methods(study, {} if methods is None else read_methods(methods))
    clients = num_supernodes or len(base.data.client_names)
    check_ray_address(ray_address)
    values, chosen = parse_grid(grid, base), parse_seeds(seeds)
    cells = make_cells(base, values, chosen, named)
    notes = dict.fromkeys(note for cell in cells for note in check_run(cell.config, clients=clients))
    for note in [*settings_of_study(base, named), *unread_settings([cell.config for cell in cells]), *notes]:
        echo_line(console, f"note: {note}")
    place = study_folder("sweeps", overrides, out)
    folder = SweepFolder.open(place, config=base, grid=values, clients=clients, seeds=chosen, methods=named)
    fedavg = fedavg or averaged
    plan = Sweep(app, folder, cells, clients, jobs or usable_cpus(), fedavg, ray_address)
    covered = sum(cell.config.privacy.mechanism != NO_MECHANISM for cell in cells)
    if fedavg and covered:
        which = "" if covered == len(cells) else f" of the {covered} of {len(cells)} runs with one"
        echo_line(console, f"FedAvg is not run with a privacy mechanism{which}: none of them covers parameters")
    with folder.locked(), progress_on(console, "sweep") as progress:
        results = run_sweep(plan, progress=progress)
    extra = [METHOD] * bool(named) + [key for key in values if key not in SETTING_KEYS.values()]
    _write_results(folder.path, results, extra)
    echo_line(console, folder.time_spent())
    echo_line(console, f"sweep folder: {folder.path}")


def _write_results(folder: Path, results: "pd.DataFrame", extra: list[str]) -> None:
    from knot_fed.reporting.comparison import write_comparison
    from knot_fed.runs.results import read_sweep
    from knot_fed.runs.sweep_tables import sweep_tables
    from knot_fed.sweep.results import write_table
    from knot_fed.sweep.statistics import compare_with_baseline

    write_table(results, folder / "results.csv")
    write_table(compare_with_baseline(results, extra), folder / "comparison.csv")
    write_comparison(read_sweep(folder), folder / "report.html")
    console.print(sweep_tables(read_sweep(folder), extra))
