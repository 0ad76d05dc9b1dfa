"""Running a sweep: one Flower run per cell, several at a time, and the table at the end."""

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
"""Called with the name of what has just finished, the number of finished parts, and the total."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to run."""

    app: Path | None  # folder of the user's app; None: the installed one
    folder: SweepFolder
    cells: Sequence[Cell]
    clients: int  # number of virtual clients
    jobs: int  # runs at a time, each on one CPU
    fedavg: bool  # whether to run FedAvg for each seed and start of the student without a privacy mechanism


@dataclass(frozen=True, slots=True)
class _Task:
    """One Flower run; tasks with the same `reference` share teachers and the student's start."""

    name: str
    config: RunConfig
    reference: str


def run_sweep(sweep: Sweep, *, progress: Progress) -> pd.DataFrame:
    """Run what is not finished, and return the tidy table.

    Raises FederationError if a run fails; finished ones are kept, and a second call resumes.
    """
    cells = [_Task(cell.name, cell.config, cell.reference) for cell in sweep.cells]
    _run_tasks(sweep, cells, sweep.folder.cells, strategy="knot", progress=progress)
    averaged = [_Task(_fedavg_name(cell), cell.config, cell.reference) for cell in averaged_cells(sweep)]
    _run_tasks(sweep, averaged, sweep.folder.fedavg, strategy="fedavg", progress=progress)
    return tidy(_rows(sweep, progress))


def _first_cells(sweep: Sweep) -> list[Cell]:
    """Return the first cell of each seed and each start, for which the baselines are computed."""
    return list({cell.reference: cell for cell in reversed(sweep.cells)}.values())[::-1]


def averaged_cells(sweep: Sweep) -> list[Cell]:
    """Return the cells for which FedAvg is run too: those without a privacy mechanism, since none covers parameters."""
    return [cell for cell in _first_cells(sweep) if sweep.fedavg and cell.config.privacy.mechanism == NO_MECHANISM]


def _fedavg_name(cell: Cell) -> str:
    return f"{cell.reference}-fedavg"


def _run_tasks(sweep: Sweep, tasks: Sequence[_Task], runs: Path, *, strategy: str, progress: Progress) -> None:
    """Run tasks, several at a time, on one SuperLink.

    The first task of the sweep runs alone on all CPUs, since it computes features that all share; then the first of
    every other seed and start, which train the teachers that others load; then the rest. A run has the same number of
    CPUs even if the sweep was interrupted.
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
    """Run tasks, several at a time; yield each name as it ends, and raise the first failure."""
    futures: dict[Future[None], _Task] = {pool.submit(run, task): task for task in tasks}
    for future in as_completed(futures):
        task = futures[future]
        try:
            future.result()
        except KnotError as error:
            raise FederationError(f"{task.name}: {error}; fix it and call again, finished runs are kept") from None
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
    """Yield a pool of `jobs` threads, and stop their runs if one fails or the sweep is interrupted.

    A thread may be starting its run at that moment, so processes are stopped until all threads have ended.
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
    """Collect the rows of finished runs and baselines."""
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
    """Compute the baselines of each seed and start, in processes of one thread each."""
    weightings = list({cell.config.weights.weighting: cell.config.weights for cell in sweep.cells}.values())
    missing = [cell for cell in firsts if sweep.folder.kept_references(cell.reference) is None]
    with worker_pool(sweep.jobs) as pool:
        work = partial(reference_rows, clients=sweep.clients, weightings=weightings)
        computed = pool.map(work, [cell.config for cell in missing])
        for done, (cell, rows) in enumerate(zip(missing, computed, strict=True), start=1):
            sweep.folder.keep_references(cell.reference, rows)
            progress(f"reference lines of {cell.reference}", done, len(missing))
    return [row | cell.shaping for cell in firsts for row in sweep.folder.kept_references(cell.reference) or []]
