"""A small process that ends all descendants of a command, however the command itself ends.

    python -P watcher.py MARK < pipe

The command holds the other end of the pipe, which the system closes when it ends, even by SIGKILL. All its descendants
have `KNOT_FED_MARK=MARK` in their environment, or are children of a process that has, even after their parent has
ended. A line in the pipe names a private folder to remove. Works on any POSIX system.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil

MARK = "KNOT_FED_MARK"
ASK_SECONDS, PASSES, POLL_SECONDS = 5.0, 6, 0.1
"""Time for processes to end after a request, rounds of searching for new ones, and the polling interval."""


def main() -> None:
    """Wait for the command's end, then end its marked processes and remove its private folders."""
    mark, folders = sys.argv[1], [os.fsdecode(line.rstrip(b"\n")) for line in sys.stdin.buffer]
    end_marked(mark)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def end_marked(mark: str) -> None:
    """End the processes with a mark, including those that start meanwhile."""
    for _ in range(PASSES):
        family = list(marked(mark))
        if not family:
            return
        end_all(family, seconds=ASK_SECONDS)


def marked(mark: str) -> Iterator[psutil.Process]:
    """Find this user's running processes with a mark and their descendants, except this process."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found |= {process, *process.children(recursive=True)}
    return filter(_lives, found - {psutil.Process()})


def end_all(family: list[psutil.Process], *, seconds: float) -> None:
    """Terminate processes, and kill those that do not end in time; a zombie counts as ended."""
    for member in family:
        with suppress(psutil.Error):
            member.terminate()
    deadline = time.monotonic() + seconds
    while (left := list(filter(_lives, family))) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for member in left:
        with suppress(psutil.Error):
            member.kill()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


if __name__ == "__main__":
    main()
