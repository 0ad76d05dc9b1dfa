"""MLflow: a server at `MLFLOW_TRACKING_URI`, or the folder `mlruns` beside the run folder."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TypeVar

from filelock import FileLock

from knot_fed.runs.trackers.tracker import Axis, TrackedRun

FOLDER, EXPERIMENT = "mlruns", "knot-fed"
MOST_PARAMS, MOST_METRICS = 100, 1000
"""Of one request."""
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # newer releases refuse their file store without it
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default a server that is away holds up the run for minutes
}
for key, value in DEFAULTS.items():  # before the import, which starts MLflow's telemetry
    os.environ.setdefault(key, value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

_Entry = TypeVar("_Entry")


class MlflowTracker:
    """Writes settings as parameters, scalars as metrics with steps, and files as artifacts of one MLflow run."""

    def start(self, run: TrackedRun, *, resumed: str) -> str:
        """Create a run in the experiment `MLFLOW_EXPERIMENT_NAME`, by default `knot-fed`, or reopen one."""
        uri, store = os.environ.get("MLFLOW_TRACKING_URI", ""), run.folder.parent.resolve() / FOLDER
        if not uri:
            store.mkdir(exist_ok=True)
        with nullcontext() if uri else FileLock(store / ".lock"):  # the runs of a sweep start at the same time
            self._client = MlflowClient(tracking_uri=uri or store.as_uri())
            experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
        if resumed:
            self._client.update_run(resumed, status="RUNNING")
            self._run = resumed
            return self._run
        self._run = self._client.create_run(experiment, run_name=run.folder.name, tags=dict(run.tags)).info.run_id
        for params in _batches([Param(*setting) for setting in run.settings.items()], MOST_PARAMS):
            self._client.log_batch(self._run, params=params)
        return self._run

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run may have created it
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log(self, rows: Mapping[int, Mapping[str, float]], *, axis: Axis) -> None:
        """Write metrics, with the time and the step."""
        del axis
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for step, row in rows.items() for name, value in row.items()]
        for batch in _batches(metrics, MOST_METRICS):
            self._client.log_batch(self._run, metrics=batch)

    def log_file(self, name: str, text: str) -> None:
        """Write an artifact."""
        self._client.log_text(self._run, text, name)

    def finish(self, *, ok: bool) -> None:
        """Set the status of the run."""
        self._client.set_terminated(self._run, "FINISHED" if ok else "FAILED")


def _batches(entries: Sequence[_Entry], size: int) -> Iterator[Sequence[_Entry]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))
