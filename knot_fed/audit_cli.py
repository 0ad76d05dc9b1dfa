"""`knot-fed audit`: attacks on the run of a configuration, without Flower; `knot-fed frontier`: what privacy costs."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.table import Table

from knot_fed.audit.findings import Effort
from knot_fed.audit.folder import TABLE_FILE, AuditFolder
from knot_fed.audit.frontier import price_of_privacy
from knot_fed.audit.frontier_report import headings, shown_cells, write_frontier
from knot_fed.audit.report import summarise_findings, write_audit_report
from knot_fed.audit.study import Audit, parse_attacks, run_audit
from knot_fed.config import RunConfig
from knot_fed.data.partition import client_shard
from knot_fed.errors import ConfigError
from knot_fed.machine import usable_cpus
from knot_fed.overrides import resolve_config
from knot_fed.preflight import check_run
from knot_fed.reporting.page import refuse_foreign, without_folders
from knot_fed.reporting.results import FACTS
from knot_fed.sweep.grid import parse_seeds
from knot_fed.sweep.results import write_table
from knot_fed.terminal import make_console, progress_on

console = make_console(200)


def audit(
    run_config: Annotated[list[str], typer.Argument(help="TOML file or 'key=value ...'; may repeat.")],
    attacks: Annotated[
        str, typer.Option(help="Of membership, student, label-mix, canaries and poisoning, with commas.")
    ] = "membership,label-mix,canaries,poisoning",
    seeds: Annotated[str, typer.Option(help="How many seeds, or seeds with commas.")] = "3",
    client: Annotated[str, typer.Option(help="Who is attacked, and who poisons; else the first client.")] = "",
    shadows: Annotated[int, typer.Option(min=6, help="Teachers trained for membership inference.")] = 16,
    candidates: Annotated[int, typer.Option(min=2, help="Private texts whose membership is guessed.")] = 400,
    nearest: Annotated[int, typer.Option(min=1, help="Transfer texts read for each candidate.")] = 5,
    canaries: Annotated[int, typer.Option(min=2, help="Canaries of the one-run audit.")] = 600,
    references: Annotated[int, typer.Option(min=4, help="Further teachers with canaries.")] = 8,
    delta: Annotated[float, typer.Option(min=0, max=1, help="Of the bound on epsilon; 0: privacy.delta.")] = 0.0,
    app: Annotated[Path, typer.Option(help="Folder of the app's pyproject.toml.")] = Path(),
    num_supernodes: Annotated[int, typer.Option(min=0, help="Virtual clients; 0: one for each private file.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the audit; else audits/<name of the TOML file>.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Attacks at a time, each on one CPU; 0: one for each CPU.")] = 0,
) -> None:
    """Attack what a run of this configuration lets out; called again, it goes on where it stopped."""
    config = resolve_config(app, run_config, num_supernodes=num_supernodes)
    clients = num_supernodes or len(config.data.client_names)
    check_run(config, clients=clients)
    attacked, chosen, wanted = _attacked(client, config, clients), parse_seeds(seeds), parse_attacks(attacks)
    effort = Effort(shadows, candidates, nearest, canaries, references, delta or config.privacy.delta)
    folder = AuditFolder.open(
        out or _default_folder(run_config), config=config, effort=effort, client=attacked, clients=clients
    )
    plan = Audit(folder, config, clients, attacked, wanted, chosen, effort, jobs or usable_cpus())
    with progress_on(console, "audit") as progress:
        run_audit(plan, progress=progress)
    table = folder.table()
    write_table(table, folder.path / TABLE_FILE)
    flat = config.to_mapping()
    facts = [(key, without_folders(str(flat[key]))) for key in FACTS] + [("attacked", attacked)]
    scores = {attack: folder.scores(attack) for attack in table["attack"].unique()}
    write_audit_report(folder.path / "report.html", table, scores, facts)
    console.print(*_printed(table))
    console.print(f"audit folder: {folder.path}", soft_wrap=True)


def frontier(
    folders: Annotated[list[Path], typer.Argument(help="Folders of sweeps and of audits.", metavar="FOLDER...")],
    out: Annotated[Path, typer.Option(help="Report to write; a csv file goes beside it.")] = Path("frontier.html"),
) -> None:
    """Put sweeps and audits side by side: what each mechanism and epsilon costs, claims and leaks."""
    table = price_of_privacy(folders)
    refuse_foreign(out)
    write_frontier(table, out, [folder.resolve().name for folder in folders])
    write_table(table, out.with_suffix(".csv"))
    printed = Table(*headings(), title="means over seeds and domains ± half the 95 % interval")
    for line in table.to_dict("records"):
        printed.add_row(*shown_cells(line))
    console.print(printed)
    console.print(str(out), markup=False, highlight=False, soft_wrap=True)


def _attacked(name: str, config: RunConfig, clients: int) -> str:
    names = [client_shard(index, clients, config.data.client_names).name for index in range(clients)]
    if name and name not in names:
        raise ConfigError(f"--client {name!r}: no such client; use one of {', '.join(names)}")
    return name or names[0]


def _default_folder(overrides: list[str]) -> Path:
    files = [Path(text).stem for text in overrides if text.endswith(".toml")]
    return Path("audits") / (files[-1] if files else "builtin")


def _printed(table: pd.DataFrame) -> list[Table]:
    """Return a table for each attack: each measure's mean over the seeds, with the lowest and the highest."""
    printed = []
    for attack, found in summarise_findings(table).groupby("attack", sort=False):
        measures = list(dict.fromkeys(found["measure"]))
        printed.append(Table("client", "case", *measures, title=f"{attack}: mean over seeds [lowest, highest]"))
        for (client, case), rows in found.groupby(["client", "case"], sort=False):
            values = {
                row["measure"]: f"{row['value']:.3f} [{row['lowest']:.3f}, {row['highest']:.3f}]"
                for row in rows.to_dict("records")
            }
            printed[-1].add_row(str(client), str(case), *(values.get(measure, "") for measure in measures))
    return printed
