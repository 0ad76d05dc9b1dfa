"""Running a sweep: one Flower run a cell, several at a time, and the tables when all are done."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from knot_fed.config import NO_MECHANISM, RunConfig, Scalar
from knot_fed.errors import FederationError, KnotError
from knot_fed.launch.simulation import federation_settings, simulator
from knot_fed.launch.submission import Submitter
from knot_fed.sweep.folder import SweepFolder
from knot_fed.sweep.grid import Cell
from knot_fed.sweep.references import reference_rows
from knot_fed.sweep.results import Row, before_rows, cell_rows, fedavg_rows, tidy
from knot_fed.system.processes import stop_children, worker_pool

Progress = Callable[[str, int, int], None]
"""Called with what has just finished, how many are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is to be run.

    Parameters
    ----------
    app
        Folder of an app of the user's own; None: the installed one.
    folder
        Where runs and tables go.
    cells
        All cells, of all seeds.
    clients
        Number of virtual clients.
    jobs
        Runs at a time, each on one CPU.
    fedavg
        Whether FedAvg is run once for each seed and start of the student, where no privacy mechanism is asked for.
    """

    app: Path | None
    folder: SweepFolder
    cells: Sequence[Cell]
    clients: int
    jobs: int
    fedavg: bool


@dataclass(frozen=True, slots=True)
class _Task:
    """One Flower run that is not finished yet."""

    name: str
    config: RunConfig
    reference: str


def run_sweep(sweep: Sweep, *, progress: Progress) -> pd.DataFrame:
    """Run what is not finished, and return the tidy table.

    Raises
    ------
    FederationError
        If a run fails; finished ones are kept, and a second call goes on.
    """
    cells = [_Task(cell.name, cell.config, cell.reference) for cell in sweep.cells]
    _run_tasks(sweep, cells, sweep.folder.cells, strategy="knot", progress=progress)
    averaged = [_Task(_fedavg_name(cell), cell.config, cell.reference) for cell in averaged_cells(sweep)]
    _run_tasks(sweep, averaged, sweep.folder.fedavg, strategy="fedavg", progress=progress)
    return tidy(_rows(sweep, progress))


def _first_cells(sweep: Sweep) -> list[Cell]:
    """Return the first cell of each seed and each start, which the reference lines are taken from."""
    return list({cell.reference: cell for cell in reversed(sweep.cells)}.values())[::-1]


def averaged_cells(sweep: Sweep) -> list[Cell]:
    """Return the cells for which FedAvg is run too: a privacy mechanism covers soft labels, and no parameters."""
    return [cell for cell in _first_cells(sweep) if sweep.fedavg and cell.config.privacy.mechanism == NO_MECHANISM]


def _fedavg_name(cell: Cell) -> str:
    return f"{cell.reference}-fedavg"


def _run_tasks(sweep: Sweep, tasks: Sequence[_Task], runs: Path, *, strategy: str, progress: Progress) -> None:
    """Run tasks, several at a time, on one SuperLink.

    The very first runs alone, on all CPUs, since it computes features that all share; then the first of every other
    seed and start, which train the teachers that others load; then the rest. A run has the same CPUs whether the sweep
    was stopped or not.
    """
    waiting = [task for task in tasks if sweep.folder.finished(runs, task.name, task.config) is None]
    if not waiting:
        return
    alone = [task for task in waiting if task is tasks[0]]
    firsts = {task.reference: task for task in reversed(waiting) if task not in alone}
    stages = [alone, list(firsts.values())[::-1], [task for task in waiting if task not in [*alone, *firsts.values()]]]
    done = 0
    with simulator(sweep.app, strategy=strategy) as running, _stopped_on_error(sweep.jobs) as pool:
        for stage in stages:
            run = partial(_run, sweep, running, runs=runs, cpus=sweep.jobs if stage is alone else 1)
            for name in _run_stage(pool, run, stage):
                done += 1
                progress(name, done, len(waiting))


def _run_stage(pool: ThreadPoolExecutor, run: Callable[[_Task], None], tasks: Sequence[_Task]) -> Iterator[str]:
    """Run tasks, several at a time; yields each name as it ends, and raises the first failure."""
    futures: dict[Future[None], _Task] = {pool.submit(run, task): task for task in tasks}
    for future in as_completed(futures):
        task = futures[future]
        try:
            future.result()
        except KnotError as error:
            raise FederationError(f"{task.name}: {error}; mend it and call again, finished runs are kept") from None
        yield task.name


def _run(sweep: Sweep, running: Submitter, task: _Task, *, runs: Path, cpus: int) -> None:
    started = time.monotonic()
    sweep.folder.clear(runs, task.name)
    overrides: dict[str, Scalar] = {"name": task.name, "runs-dir": str(runs.resolve()), "threads": cpus}
    config = RunConfig.from_mapping(task.config.to_mapping() | overrides)
    resources = {"client_resources": {"num_cpus": cpus}, "init_args": {"num_cpus": cpus}}
    settings = federation_settings(json.dumps(resources), num_supernodes=sweep.clients)
    running.run(config, settings, echo=lambda _: None)
    sweep.folder.record_time(runs / task.name, seconds=time.monotonic() - started)


@contextmanager
def _stopped_on_error(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads for so many runs at a time, and stop the runs when one of them fails or the sweep is stopped.

    A thread may be about to start its run just then, so what was started is stopped until all threads have ended.
    """
    pool = ThreadPoolExecutor(jobs)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        ending = threading.Thread(target=pool.shutdown)
        ending.start()
        while ending.is_alive():
            stop_children()
            ending.join(timeout=0.5)
        raise
    pool.shutdown()


def _rows(sweep: Sweep, progress: Progress) -> list[Row]:
    """Collect finished runs and reference lines."""
    rows: list[Row] = []
    firsts = _first_cells(sweep)
    for cell in firsts:
        rows += before_rows(cell, _summary(sweep, sweep.folder.cells, cell.name, cell))
    for cell in averaged_cells(sweep):
        rows += fedavg_rows(cell, _summary(sweep, sweep.folder.fedavg, _fedavg_name(cell), cell))
    for cell in sweep.cells:
        rows += cell_rows(cell, _summary(sweep, sweep.folder.cells, cell.name, cell))
    return rows + _references(sweep, firsts, progress)


def _summary(sweep: Sweep, runs: Path, name: str, cell: Cell) -> dict[str, Any]:
    summary = sweep.folder.finished(runs, name, cell.config)
    if summary is None:
        raise FederationError(f"{name}: the run left no summary; call again to run it once more")
    return summary


def _references(sweep: Sweep, firsts: Sequence[Cell], progress: Progress) -> list[Row]:
    """Compute the reference lines of each seed and each start, in processes of one thread each."""
    weightings = list({cell.config.weights.weighting: cell.config.weights for cell in sweep.cells}.values())
    missing = [cell for cell in firsts if sweep.folder.kept_references(cell.reference) is None]
    with worker_pool(sweep.jobs) as pool:
        work = partial(reference_rows, clients=sweep.clients, weightings=weightings)
        computed = pool.map(work, [cell.config for cell in missing])
        for done, (cell, rows) in enumerate(zip(missing, computed, strict=True), start=1):
            sweep.folder.keep_references(cell.reference, rows)
            progress(f"reference lines of {cell.reference}", done, len(missing))
    return [row | cell.shaping for cell in firsts for row in sweep.folder.kept_references(cell.reference) or []]
