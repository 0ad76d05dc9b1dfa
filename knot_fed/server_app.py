"""The server: pretrains the student, runs the strategy, and writes the run folder."""

import time

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from knot_fed.config import RunConfig
from knot_fed.errors import KnotError, phase
from knot_fed.federation.server.privacy_summary import privacy_facts
from knot_fed.federation.server.run import (
    Judge,
    run_between_measurements,
    run_in_folder,
    summarise,
)
from knot_fed.federation.strategy import KnotStrategy
from knot_fed.models import save_classifier
from knot_fed.reporting.report import write_report
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.scalars import write_scalars
from knot_fed.training.distillation import DistillationResult, distillation_settings

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation; a failure leaves what was computed in the run folder and ends non-zero."""
    run_in_folder(grid, context, federate)


def federate(grid: Grid, config: RunConfig, folder: RunFolder) -> None:
    """Pretrain, distil and judge the student, and write `summary.json`, `student/` and `report.html`.

    Raises
    ------
    KnotError
        If the federation cannot continue; `summary.json` then holds `status = "failed"` and what was computed.
    """
    started = time.monotonic()
    strategy = KnotStrategy.from_config(config, folder)
    student, outcome = strategy.student, strategy.roster.outcome
    judge = Judge(config, strategy.public)
    failure = run_between_measurements(lambda: strategy.run(grid), student, judge, outcome)
    facts = {
        "distillation": distillation_facts(config, outcome.distillations),
        "privacy": privacy_facts(config, outcome),
    }
    try:
        save_classifier(student, folder.student)
        folder.write_summary(summarise(config, outcome, facts, seconds=time.monotonic() - started, failure=failure))
    except KnotError as error:
        failure = failure or error
    if failure is not None:
        raise failure
    with phase("the report"):
        write_report(folder)
        write_scalars(folder)


def distillation_facts(config: RunConfig, distillations: list[DistillationResult]) -> dict[str, str | int | float]:
    """Return how the student was distilled, as `summary.json` holds it."""
    return {
        **distillation_settings(config),
        "unmoved": sum(distillation.unmoved for distillation in distillations),
        "saturated": distillations[-1].saturated if distillations else 0.0,
        "epochs": sum(distillation.epochs_run for distillation in distillations),
        "seconds": sum(distillation.seconds for distillation in distillations),
        "seconds_in_loss": sum(distillation.seconds_in_loss for distillation in distillations),
    }
