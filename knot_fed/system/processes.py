"""Child processes of a command, ended with all their descendants however the command itself ends."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from typing import Any

import psutil

from knot_fed.errors import KnotError
from knot_fed.system import watcher
from knot_fed.system.stopping import ignore_interrupts

STOP_SECONDS, POOL_SECONDS = 20.0, 2.0
"""Time for a run's processes, and for a pool's, to end after a request."""
_watchers: set[int] = set()
"""Processes that end by themselves when this one does."""


def script(name: str) -> str:
    """Find a console script beside this Python, or on the path."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a temporary folder, removed at the end with all processes started meanwhile, even after a SIGKILL.

    A watcher process (`watcher.py`) cleans up when this process ends; `KNOT_FED_MARK` in the environment marks the
    processes started here.
    """
    with _watched() as told, tempfile.TemporaryDirectory(prefix="knot-fed-", ignore_cleanup_errors=True) as folder:
        told.write(os.fsencode(folder) + b"\n")
        told.flush()
        yield Path(folder)


@contextmanager
def worker_pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of `jobs` spawned processes.

    On a KnotError running tasks finish and no other starts; on any other exception they are stopped at once.
    """
    resource_tracker.ensure_running()  # outside the watch, whose end would kill it; the next pool would complain
    _watchers.add(resource_tracker._resource_tracker._pid)  # type: ignore[attr-defined]
    with _watched():
        pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=ignore_interrupts)
        try:
            yield pool
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, KnotError):
                stop_children(seconds=POOL_SECONDS)
            raise
        finally:
            pool.shutdown()


@contextmanager
def _watched() -> Iterator[Any]:
    """Run a watcher and mark all processes started meanwhile; yields the pipe that passes it private folders."""
    mark, before = secrets.token_hex(16), os.environ.get(watcher.MARK)
    command = [sys.executable, "-P", watcher.__file__, mark]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    _watchers.add(process.pid)
    os.environ[watcher.MARK] = mark
    try:
        yield process.stdin
    finally:
        if before is None:
            del os.environ[watcher.MARK]
        else:
            os.environ[watcher.MARK] = before
        with suppress(OSError):
            process.communicate()
        _watchers.discard(process.pid)


def stop_children(*, seconds: float = STOP_SECONDS) -> None:
    """Stop all descendants of this process except the watchers, which end with it."""
    family = psutil.Process().children(recursive=True)
    watcher.end_all([member for member in family if member.pid not in _watchers], seconds=seconds)


def stop(process: subprocess.Popen[Any]) -> None:
    """Stop a process and its descendants; the SuperLink of an interrupted run would leave Ray's behind."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        watcher.end_all([parent, *parent.children(recursive=True)], seconds=STOP_SECONDS)
    process.wait()
