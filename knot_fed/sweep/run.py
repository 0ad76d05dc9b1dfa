"""Running a sweep: a Flower run for each question to the clients, a distillation for each cell, and the table."""

import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from knot_fed.config import NO_MECHANISM, RunConfig, Scalar
from knot_fed.errors import FederationError, KnotError
from knot_fed.launch.bundle import runs_own_components
from knot_fed.launch.simulation import federation_settings, simulator
from knot_fed.launch.submission import Submitter
from knot_fed.sweep.answers import Federation, State, distil_cell, has_answers, share_answers
from knot_fed.sweep.folder import SweepFolder
from knot_fed.sweep.grid import Cell
from knot_fed.sweep.references import Ensemble, reference_rows
from knot_fed.sweep.results import Row, before_rows, cell_rows, fedavg_rows, tidy
from knot_fed.system.processes import stop_children, worker_pool

Progress = Callable[[str, int, int], None]
"""Called with the name of what has just finished, the number of finished parts, and the total."""
Tell = Callable[[str], None]
"""Called with the name of a run that has just finished."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to run."""

    app: Path | None  # folder of the user's app; None: the installed one
    folder: SweepFolder
    cells: Sequence[Cell]
    clients: int  # number of virtual clients
    jobs: int  # runs at a time, each on one CPU
    fedavg: bool  # whether to run FedAvg for each seed and start of the student without a privacy mechanism
    ray_address: str = ""  # of the cluster that runs the clients; empty: this machine


def run_sweep(sweep: Sweep, *, progress: Progress) -> pd.DataFrame:
    """Run what is not finished, and return the tidy table.

    Raises FederationError if a run fails; finished ones are kept, and a second call resumes.
    """
    folder, firsts, averaged = sweep.folder, _first_cells(sweep), averaged_cells(sweep)
    federations = [Federation(cell, []) for cell in sweep.cells]
    if sweep.app is None or runs_own_components(sweep.app):
        federations = share_answers(sweep.cells, state_of=partial(_state_of, folder))
    tell = _counted(progress, len(_unfinished(sweep, sweep.cells, folder.cells)))
    _run_cells(sweep, [each.cell for each in federations], folder.cells, strategy="knot", tell=tell)
    _distil_cells(sweep, federations, tell=tell)
    tell = _counted(progress, len(_unfinished(sweep, averaged, folder.fedavg)))
    _run_cells(sweep, averaged, folder.fedavg, strategy="fedavg", tell=tell)
    rows = [row for cell in firsts for row in before_rows(cell, _summary(sweep, folder.cells, cell))]
    rows += [row for cell in averaged for row in fedavg_rows(cell, _summary(sweep, folder.fedavg, cell))]
    rows += [row for cell in sweep.cells for row in cell_rows(cell, _summary(sweep, folder.cells, cell))]
    return tidy(rows + _references(sweep, firsts, progress))


def _first_cells(sweep: Sweep) -> list[Cell]:
    """Return the first cell of each seed and each start, for which the baselines are computed."""
    return list({cell.reference: cell for cell in reversed(sweep.cells)}.values())[::-1]


def averaged_cells(sweep: Sweep) -> list[Cell]:
    """Return the cells of the FedAvg runs: without a privacy mechanism, since none covers parameters."""
    covered = [cell for cell in _first_cells(sweep) if cell.study.privacy.mechanism == NO_MECHANISM]
    return [replace(cell, name=f"{cell.reference}-fedavg", config=cell.study) for cell in covered if sweep.fedavg]


def _counted(progress: Progress, total: int) -> Tell:
    """Return a function that counts the names that it is told, and passes them on."""
    count = itertools.count(1)
    return lambda name: progress(name, next(count), total)


def _unfinished(sweep: Sweep, cells: Sequence[Cell], runs: Path) -> list[Cell]:
    return [cell for cell in cells if sweep.folder.finished(runs, cell.name, cell.config) is None]


def _run_cells(sweep: Sweep, cells: Sequence[Cell], runs: Path, *, strategy: str, tell: Tell) -> None:
    """Run cells, several at a time, on one SuperLink.

    The first cell of the sweep runs alone, its clients on all CPUs, since it computes features that all share; then the
    first of every other seed and start, which train the teachers that others load; then the rest. Every server and
    client has one thread, so that results do not depend on the order.
    """
    waiting = _unfinished(sweep, cells, runs)
    if not waiting:
        return
    alone = [cell for cell in waiting if cell is cells[0]]
    firsts = {cell.reference: cell for cell in reversed(waiting) if cell not in alone}
    stages = [alone, list(firsts.values())[::-1], [cell for cell in waiting if cell not in [*alone, *firsts.values()]]]
    at_a_time = 1 if sweep.ray_address else sweep.jobs  # a run takes the whole cluster
    with (
        simulator(sweep.app, strategy=strategy, ray_address=sweep.ray_address) as running,
        _stopped_on_error(at_a_time) as pool,
    ):
        for stage in stages:
            run = partial(_run, sweep, running, runs=runs, cpus=sweep.jobs if stage is alone else 1)
            for name in _run_stage(pool, run, stage):
                tell(name)


def _run_stage(pool: ThreadPoolExecutor, run: Callable[[Cell], None], cells: Sequence[Cell]) -> Iterator[str]:
    """Run cells, several at a time; yield each name as it ends."""
    yield from _each_finished({pool.submit(run, cell): cell.name for cell in cells})


def _each_finished(futures: Mapping[Future[Any], str]) -> Iterator[str]:
    """Yield the name of each run as it ends, and raise the first failure."""
    for future in as_completed(futures):
        try:
            future.result()
        except KnotError as error:
            name = futures[future]
            raise FederationError(f"{name}: {error}; fix it and call again, finished runs are kept") from None
        yield futures[future]


def _run(sweep: Sweep, running: Submitter, cell: Cell, *, runs: Path, cpus: int) -> None:
    started = time.monotonic()
    shutil.rmtree(runs / cell.name, ignore_errors=True)  # of an interrupted run
    resources = {"client_resources": {"num_cpus": 1}} | ({} if sweep.ray_address else {"init_args": {"num_cpus": cpus}})
    settings = federation_settings(json.dumps(resources), num_supernodes=sweep.clients, ray_address=sweep.ray_address)
    running.run(_placed(cell, runs), settings, echo=lambda _: None)
    sweep.folder.record_time(runs / cell.name, seconds=time.monotonic() - started)


def _placed(cell: Cell, runs: Path, **more: Scalar) -> RunConfig:
    overrides: dict[str, Scalar] = {"name": cell.name, "runs-dir": str(runs.resolve()), "threads": 1}
    return RunConfig.from_mapping(cell.config.to_mapping() | overrides | more)


def _distil_cells(sweep: Sweep, federations: Sequence[Federation], *, tell: Tell) -> None:
    """Distil the cells that are not finished from the answers of the others, in processes of one thread each."""
    folder = sweep.folder
    waiting = [(each.cell, cell) for each in federations for cell in _unfinished(sweep, each.served, folder.cells)]
    with worker_pool(sweep.jobs) as pool:
        futures = {}
        for source, cell in waiting:
            shutil.rmtree(folder.cells / cell.name, ignore_errors=True)  # of an interrupted run
            config = _placed(cell, folder.cells, **{"keep-answers": False})
            futures[pool.submit(distil_cell, folder.cells / source.name, config, sweep.clients)] = cell.name
        for name in _each_finished(futures):
            tell(name)


def _state_of(folder: SweepFolder, cell: Cell) -> State:
    if folder.finished(folder.cells, cell.name, cell.config) is None:
        return State.WAITING
    return State.ANSWERED if has_answers(folder.cells / cell.name, rounds=cell.config.rounds) else State.SILENT


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


def _summary(sweep: Sweep, runs: Path, cell: Cell) -> dict[str, Any]:
    summary = sweep.folder.finished(runs, cell.name, cell.config)
    if summary is None:
        raise FederationError(f"{cell.name}: the run left no summary; call again to run it once more")
    return summary


def _references(sweep: Sweep, firsts: Sequence[Cell], progress: Progress) -> list[Row]:
    """Compute the baselines of each seed and start, in processes of one thread each."""
    weightings = {(cell.study.weights.weighting, *cell.weighing.values()): cell for cell in sweep.cells}
    ensembles = [Ensemble(cell.study.weights, cell.weighing) for cell in weightings.values()]
    missing = [cell for cell in firsts if sweep.folder.load_references(cell.reference) is None]
    with worker_pool(sweep.jobs) as pool:
        work = partial(reference_rows, clients=sweep.clients, weightings=ensembles)
        computed = pool.map(work, [cell.study for cell in missing])
        for done, (cell, rows) in enumerate(zip(missing, computed, strict=True), start=1):
            sweep.folder.save_references(cell.reference, rows)
            progress(f"reference lines of {cell.reference}", done, len(missing))
    return [row | cell.shaping for cell in firsts for row in sweep.folder.load_references(cell.reference) or []]
