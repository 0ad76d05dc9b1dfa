"""`knot-fed audit`: attacks on the run of a configuration, without Flower."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knot_fed.cli.options import App, Clients, Configs, Jobs, RunConfig, Seeds, given, study_folder
from knot_fed.errors import ConfigError
from knot_fed.system.terminal import echo_line, make_console, progress_on

if TYPE_CHECKING:
    from knot_fed.audit.folder import AuditFolder
    from knot_fed.config import RunConfig as Config

console = make_console()


def audit(
    configs: Configs = None,
    attacks: Annotated[
        str, typer.Option(help="Some of membership, student, label-mix, canaries and poisoning, with commas.")
    ] = "membership,label-mix,canaries,poisoning",
    seeds: Seeds = "3",
    client: Annotated[str, typer.Option(help="Client that is attacked, or poisons; default: the first.")] = "",
    shadows: Annotated[int, typer.Option(min=6, help="Teachers trained for membership inference.")] = 16,
    candidates: Annotated[int, typer.Option(min=2, help="Private texts whose membership is guessed.")] = 400,
    nearest: Annotated[int, typer.Option(min=1, help="Transfer texts read for each candidate.")] = 5,
    canaries: Annotated[int, typer.Option(min=2, help="Canaries of the one-run audit.")] = 600,
    references: Annotated[int, typer.Option(min=4, help="Further teachers trained with canaries.")] = 8,
    delta: Annotated[float, typer.Option(min=0, max=1, help="Delta of the bound on epsilon; 0: privacy.delta.")] = 0.0,
    run_config: RunConfig = None,
    app: App = None,
    num_supernodes: Clients = 0,
    out: Annotated[Path | None, typer.Option(help="Audit folder; default: audits/<name of the TOML file>.")] = None,
    jobs: Jobs = 0,
) -> None:
    """Attack the answers of a run with this configuration; called again, it resumes where it stopped."""
    from knot_fed.audit.attacks.findings import Effort
    from knot_fed.audit.folder import AuditFolder
    from knot_fed.audit.study import Audit, parse_attacks, run_audit
    from knot_fed.config.overrides import resolve_config
    from knot_fed.preflight import check_run
    from knot_fed.preflight.unread import unread_settings
    from knot_fed.sweep.grid import parse_seeds
    from knot_fed.system.machine import usable_cpus

    if math.isnan(delta):
        raise ConfigError("--delta = nan; use a number from 0 to 1")
    overrides = given(configs, run_config)
    config = resolve_config(app, overrides, num_supernodes=num_supernodes)
    clients = num_supernodes or len(config.data.client_names)
    notes = check_run(config, clients=clients)
    attacked, chosen, wanted = _attacked(client, config, clients), parse_seeds(seeds), parse_attacks(attacks)
    for note in [*unread_settings([config]), *notes]:
        echo_line(console, f"note: {note}")
    effort = Effort(shadows, candidates, nearest, canaries, references, delta or config.privacy.delta)
    place = study_folder("audits", overrides, out)
    folder = AuditFolder.open(place, config=config, effort=effort, client=attacked, clients=clients)
    plan = Audit(folder, config, clients, attacked, wanted, chosen, effort, jobs or usable_cpus())
    with progress_on(console, "audit") as progress:
        run_audit(plan, progress=progress)
    _write_results(folder, config, attacked)


def _write_results(folder: "AuditFolder", config: "Config", attacked: str) -> None:
    from knot_fed.audit.folder import AUDIT_FILE, TABLE_FILE
    from knot_fed.audit.report import write_audit_report
    from knot_fed.audit.tables import audit_tables
    from knot_fed.files import shorten_paths
    from knot_fed.runs.results import FACTS, study_facts
    from knot_fed.sweep.results import write_table

    table, flat = folder.table(), config.to_mapping()
    write_table(table, folder.path / TABLE_FILE)
    facts = [(key, shorten_paths(str(flat[key]))) for key in (*FACTS, "privacy.mechanism", "privacy.epsilon")]
    facts += [("attacked", attacked), *study_facts(folder.path, AUDIT_FILE)]
    scores = {attack: folder.scores(attack) for attack in table["attack"].unique()}
    write_audit_report(folder.path / "report.html", table, scores, facts)
    console.print(audit_tables(table))
    echo_line(console, f"audit folder: {folder.path}")


def _attacked(name: str, config: "Config", clients: int) -> str:
    from knot_fed.data.partition import client_shard

    names = [client_shard(index, clients, config.data.client_names).name for index in range(clients)]
    if name and name not in names:
        raise ConfigError(f"--client {name!r}: no such client; use one of {', '.join(names)}")
    return name or names[0]
