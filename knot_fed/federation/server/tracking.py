"""What the server tells its trackers while it runs: numbers of the run's own outcome, by name and step."""

from collections.abc import Mapping, Sequence
from typing import Any

from knot_fed.config import RunConfig
from knot_fed.federation.server.facts import privacy_facts
from knot_fed.federation.server.roster import Outcome, Roster
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import COLUMNS
from knot_fed.runs.trackers.start import told_configuration
from knot_fed.runs.trackers.trackers import Trackers
from knot_fed.types import MEAN, Metrics

FILES = ("report.html", "summary.json")


def track_losses(trackers: Trackers, outcome: Outcome, train: Sequence[float], held_out: Sequence[float]) -> None:
    """Log the losses of the round after those of `outcome`; each round starts with the held-out loss of its epoch 0."""
    first = sum(len(distillation.validation_losses) for distillation in outcome.distillations)
    losses = {
        "distillation/train_loss": dict(enumerate(train, start=first + 1)),
        "distillation/held_out_loss": dict(enumerate(held_out, start=first)),
    }
    trackers.log(losses, axis="epoch")


def track_round(trackers: Trackers, roster: Roster, number: int) -> None:
    """Log clients, traffic, time, guarantee and metrics of the clients after a round; 0 is before the first."""
    outcome = roster.outcome
    clients = outcome.clients.values()
    facts = {
        "traffic/bytes_up": float(sum(record.bytes_up for record in clients)),
        "traffic/bytes_down": float(sum(record.bytes_down for record in clients)),
        "time/seconds": trackers.seconds,
    }
    if number:
        facts["clients/answered"] = float(roster.answered_in_round)
    epsilon = privacy_facts(roster.config, outcome)["epsilon"]
    if isinstance(epsilon, float):
        facts["privacy/epsilon"] = epsilon
    trackers.log({name: {number: value} for name, value in facts.items()})
    track_metrics(trackers, outcome.after if number else outcome.before, step=number)


def track_metrics(trackers: Trackers, measured: Mapping[str, Metrics], *, step: int) -> None:
    """Log the metrics of each domain."""
    for domain, metrics in measured.items():
        values = metrics.to_mapping()
        trackers.log({scalar_name(key, domain): {step: values[key]} for key, _ in COLUMNS})


def scalar_name(metric: str, domain: str) -> str:
    """Return the name of a scalar; brackets, as in `books (public)`, are no part of names in MLflow.

    Examples
    --------
    >>> scalar_name("sd", "books (public)")
    'eval/sd/books public'
    """
    return f"eval/{metric}/{domain.replace('(', '').replace(')', '')}"


def track_results(trackers: Trackers, outcome: Outcome, summary: Mapping[str, Any], *, step: int) -> None:
    """Log the metrics after the run, the means before and after it, and how long it took."""
    track_metrics(trackers, outcome.after, step=step)
    means = summary["student"]
    if means["before"] and means["after"]:
        for key, _ in COLUMNS:
            trackers.log({scalar_name(key, MEAN): {0: means["before"][key], step: means["after"][key]}})
    seconds = {"time/total": summary["wall_seconds"]}
    if "distillation" in summary:
        seconds["time/distillation"] = summary["distillation"]["seconds"]
    trackers.log({name: {step: value} for name, value in seconds.items()})


def track_files(folder: RunFolder, config: RunConfig) -> None:
    """Pass on the report, if it was written, the summary, and the configuration without folders of data."""
    for name in FILES:
        if (folder.path / name).is_file():
            folder.trackers.log_file(name, (folder.path / name).read_text(encoding="utf-8"))
    folder.trackers.log_file("config.toml", told_configuration(config))
