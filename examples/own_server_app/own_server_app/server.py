"""A ServerApp that distils a student with KnotStrategy; other steps may come before and after."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from knot_fed import KnotStrategy, RunConfig
from knot_fed.models import save_classifier
from knot_fed.runs.run_folder import RunFolder

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Distil a student from all clients, and save it with its accuracy on each client."""
    config = RunConfig.from_mapping(context.run_config)
    folder = RunFolder.create(Path(config.runs_dir), config.name or f"own-{context.run_id}")
    strategy = KnotStrategy.from_config(config, folder)
    strategy.start(grid)
    save_classifier(strategy.student, folder.student)
    measured = [f"{name},{metrics.accuracy:.4f}\n" for name, metrics in strategy.roster.outcome.after.items()]
    (folder.path / "accuracy.csv").write_text("client,accuracy\n" + "".join(measured), encoding="utf-8")
