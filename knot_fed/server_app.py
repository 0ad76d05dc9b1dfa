"""The server app: pretrains the student, runs the strategy, and writes the run folder."""

import time

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from knot_fed.config import RunConfig
from knot_fed.federation.server.run import run_in_folder
from knot_fed.federation.strategy import KnotStrategy
from knot_fed.runs.run_folder import RunFolder

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation; a failed run exits non-zero and keeps what was computed in the run folder."""
    run_in_folder(grid, context, federate)


def federate(grid: Grid, config: RunConfig, folder: RunFolder) -> None:
    """Run, evaluate and write `summary.json`, `student/` and `report.html`; a failed run raises."""
    started = time.monotonic()
    strategy = KnotStrategy.from_config(config, folder)
    strategy.record(lambda: strategy.start(grid), started=started)
