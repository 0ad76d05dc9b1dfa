"""`knot-fed sweep`: a grid of runs over several seeds, with reference lines, intervals and verdicts."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.table import Table

from knot_fed.machine import usable_cpus
from knot_fed.overrides import resolve_config
from knot_fed.preflight import check_run
from knot_fed.reporting.comparison import write_comparison
from knot_fed.reporting.results import MEAN, SETTING_KEYS, SETTINGS, read_sweep
from knot_fed.reporting.statistics import summarise_lines
from knot_fed.sweep.folder import SweepFolder
from knot_fed.sweep.grid import make_cells, parse_grid, parse_seeds
from knot_fed.sweep.results import write_table
from knot_fed.sweep.run import Sweep, run_sweep
from knot_fed.sweep.statistics import compare_with_baseline
from knot_fed.terminal import make_console, progress_on

console = make_console(150)


def sweep(
    run_config: Annotated[list[str], typer.Argument(help="TOML file or 'key=value ...'; may repeat.")],
    seeds: Annotated[str, typer.Option(help="How many seeds, or seeds with commas.")] = "5",
    grid: Annotated[str, typer.Option(help="'key=value,value key=value,value': all combinations are run.")] = "",
    app: Annotated[Path, typer.Option(help="Folder of the app's pyproject.toml.")] = Path(),
    num_supernodes: Annotated[int, typer.Option(min=0, help="Virtual clients; 0: one for each private file.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep; else sweeps/<name of the TOML file>.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Runs at a time, each on one CPU; 0: one for each CPU.")] = 0,
    fedavg: Annotated[bool, typer.Option(help="Run FedAvg of the same student, once for each seed.")] = True,
) -> None:
    """Run a grid over several seeds; called again, it goes on where it stopped."""
    base = resolve_config(app, run_config, num_supernodes=num_supernodes)
    clients = num_supernodes or len(base.data.client_names)
    values, chosen = parse_grid(grid, base), parse_seeds(seeds)
    cells = make_cells(base, values, chosen)
    for cell in cells:
        check_run(cell.config, clients=clients)
    folder = SweepFolder.open(
        out or _default_folder(run_config), config=base, grid=values, clients=clients, seeds=chosen
    )
    plan = Sweep(app.resolve(), folder, cells, clients, jobs or usable_cpus(), fedavg)
    if fedavg and any(cell.config.privacy.mechanism != "none" for cell in cells):
        console.print("FedAvg is left out beside a privacy mechanism: none of them covers parameters", soft_wrap=True)
    with folder.locked(), progress_on(console, "sweep") as progress:
        results = run_sweep(plan, progress=progress)
    extra = [key for key in values if key not in SETTING_KEYS.values()]
    write_table(results, folder.path / "results.csv")
    write_table(compare_with_baseline(results, extra), folder.path / "comparison.csv")
    write_comparison(read_sweep(folder.path), folder.path / "report.html")
    _print_tables(folder.path, extra)
    console.print(folder.time_spent(), highlight=False, soft_wrap=True)
    console.print(f"sweep folder: {folder.path}", soft_wrap=True)


def _default_folder(overrides: list[str]) -> Path:
    files = [Path(text).stem for text in overrides if text.endswith(".toml")]
    return Path("sweeps") / (files[-1] if files else "builtin")


def _print_tables(folder: Path, extra: list[str]) -> None:
    """Print every line's mean over seeds and domains, and the differences from the baseline."""
    found = read_sweep(folder)
    lines = Table(title="mean over seeds and domains ± half the 95 % interval; closed: share of the gap to centralised")
    settings = ["line", *SETTINGS, *extra]
    for heading in (*settings, "seeds", "SD ↓", "accuracy ↑", "macro-F1 ↑", "ECE ↓", "SD closed", "kB up"):
        lines.add_column(heading)
    for line in summarise_lines(found.frame, extra).to_dict("records"):
        measured = [
            _shown(line[measure], "{:.3f}") + _shown(line[f"{measure}_half"], " ± {:.3f}")
            for measure in ("sd", "accuracy", "macro_f1", "ece")
        ]
        closed, sent = _shown(line["closed_sd"], "{:.0%}"), _shown(line["bytes_up"] / 1e3, "{:.0f}")
        lines.add_row(*(str(line[key]) for key in settings), str(line["seeds"]), *measured, closed, sent)
    console.print(lines, _differences(found.comparison, [*SETTINGS, *extra]))


def _differences(comparison: pd.DataFrame, settings: list[str]) -> Table:
    table = Table(title="difference from the entropy baseline of the same weighting, objective, seed [95 % interval]")
    for heading in (*settings, "SD ↓", "accuracy ↑", "macro-F1 ↑"):
        table.add_column(heading)
    for setting, group in comparison[comparison["domain"] == MEAN].groupby(settings, sort=False):
        rows = group.set_index("metric").loc[["sd", "accuracy", "macro_f1"]].to_dict("records")
        cells = [f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] {row['verdict']}" for row in rows]
        table.add_row(*map(str, setting), *cells)
    return table


def _shown(value: float, template: str) -> str:
    return "" if pd.isna(value) else template.format(value)
