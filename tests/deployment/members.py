"""Processes that a test may kill, freeze and restart, each with all that it starts."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MARK = "KNOT_FED_TEST_FOLDER"


@dataclass
class Member:
    """One process with all that it starts."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen | None = None

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    def family(self, name=""):
        """Return the live processes of the family whose command line holds the name."""
        if self.process is None or self.process.poll() is not None:
            return []
        parent = psutil.Process(self.process.pid)
        return [member for member in [parent, *parent.children(recursive=True)] if name in command_line(member)]

    def await_child(self, name, *, timeout=60.0):
        """Wait for a child by a part of its command line, such as flwr-clientapp or flwr-serverapp."""
        return until(lambda: self.family(name), f"{name} of {self.log.stem}", timeout=timeout)[0]

    def send(self, number):
        for member in self.family():
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)

    def kill(self):
        """Kill the family without notice."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def freeze(self):
        self.send(signal.SIGSTOP)

    def thaw(self):
        self.send(signal.SIGCONT)

    def stop(self):
        """Ask the process to end, as an engineer does."""
        self.thaw()
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()

    def said(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def await_said(self, text, *, timeout=60.0, times=1):
        until(lambda: self.said().count(text) >= times, f"{text!r} of {self.log.stem}", timeout=timeout, log=self.log)


def until(found, what, *, timeout=60.0, log=None):
    """Poll until there is something, and return it; AssertionError with the log's end if there is not in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(0.1)
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:] if log else ""
    raise AssertionError(f"no {what} within {timeout:g} s\n{tail}")


def left_over(folder):
    """Find live processes by the mark in their environment, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def command_line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def script(name):
    beside = BIN / name
    return str(beside) if beside.exists() else shutil.which(name) or name


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
