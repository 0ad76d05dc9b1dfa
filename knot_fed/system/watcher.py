"""A small process that ends all that a command has started, however the command itself ends.

    python -P watcher.py MARK < pipe

The command holds the other end of the pipe, which the system closes with it, even on a SIGKILL. Everything that the
command starts has `KNOT_FED_MARK=MARK` in its environment, whoever its parent is by then; so have the children of those
that change their own environment. A line in the pipe names a private folder to remove. Any POSIX system will do.
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
"""How long processes may take to end once they are asked, and how often those are looked for that start meanwhile."""


def main() -> None:
    """Wait for the command's end, end what bears its mark, and remove its private folders."""
    mark, folders = sys.argv[1], [os.fsdecode(line.rstrip(b"\n")) for line in sys.stdin.buffer]
    end_marked(mark)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def end_marked(mark: str) -> None:
    """End the processes of a mark; those that start meanwhile too."""
    for _ in range(PASSES):
        family = list(marked(mark))
        if not family:
            return
        end_all(family, seconds=ASK_SECONDS)


def marked(mark: str) -> Iterator[psutil.Process]:
    """Find this user's living processes of a mark, without this one, and their descendants."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found |= {process, *process.children(recursive=True)}
    return filter(_lives, found - {psutil.Process()})


def end_all(family: list[psutil.Process], *, seconds: float) -> None:
    """Ask processes to end, and kill those that have not ended in time; a zombie has ended."""
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
