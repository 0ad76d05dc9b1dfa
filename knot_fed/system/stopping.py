"""Signals that stop a command: one sentence, the stack unwound once, and the exit code that a shell expects."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

REASONS = {"SIGINT": " by Ctrl-C", "SIGTERM": " by SIGTERM", "SIGHUP": ", since the terminal has gone (SIGHUP)"}
"""The signals that ask a command to stop, as people know them; a system may lack some."""


class Stopped(SystemExit):
    """A signal has asked the command to stop; its exit code is 128 and the signal's number."""


@contextmanager
def stoppable(program: str) -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP unwind the stack, so that processes end and private folders go.

    Those that follow are ignored, since they would cut the unwinding short. A signal that is ignored already stays so,
    such as SIGHUP under `nohup`.

    Parameters
    ----------
    program
        What the user called; it stands before the sentence that tells of the stop.
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
                os.write(2, f"{program}: stopped{reason}; ending what it has started\n".encode("ascii", "replace"))
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
    """Leave Ctrl-C to the process that started this one, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
