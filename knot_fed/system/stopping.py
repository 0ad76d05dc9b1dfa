"""Signals that stop a command: one sentence, one unwinding of the stack, and the usual exit code."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

REASONS = {"SIGINT": " by Ctrl-C", "SIGTERM": " by SIGTERM", "SIGHUP": ", since the terminal has gone (SIGHUP)"}
"""Signals that stop a command, with the reason shown to the user; a system may lack some."""


class Stopped(SystemExit):
    """Raised on a signal; the exit code is 128 plus the signal's number."""


@contextmanager
def stoppable(program: str) -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP unwind the stack, so that processes end and private folders are removed.

    Later signals are ignored, since they would interrupt the unwinding. A signal that is already ignored stays ignored,
    such as SIGHUP under `nohup`.

    Parameters
    ----------
    program
        Name of the program; starts the sentence.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            reason = REASONS[signal.Signals(number).name]
            with suppress(OSError):
                os.write(2, f"{program}: stopped{reason}; stopping its processes\n".encode("ascii", "replace"))
            raise Stopped(128 + number)

    numbers = [getattr(signal, name) for name in REASONS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    heard = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in heard:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C in a worker; its parent process stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
