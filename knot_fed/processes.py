"""Processes that a command starts: found, and stopped with all that they started, also on a SIGTERM."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

STOP_SECONDS = 20.0


def script(name: str) -> str:
    """Find a console script beside this Python, or else on the path."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let a SIGTERM unwind the stack, so that processes are stopped and private folders removed."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_children() -> None:
    """Stop all that this process has started."""
    _stop_all(psutil.Process().children(recursive=True))


def stop(process: subprocess.Popen[Any]) -> None:
    """Stop a process and all that it started; the SuperLink of a run cut short would leave Ray's behind."""
    try:
        parent = psutil.Process(process.pid)
        _stop_all([parent, *parent.children(recursive=True)])
    except psutil.NoSuchProcess:
        pass
    process.wait()


def _stop_all(family: list[psutil.Process]) -> None:
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    for member in psutil.wait_procs(family, timeout=STOP_SECONDS)[1]:
        with suppress(psutil.NoSuchProcess):
            member.kill()
