"""A run that `flwr run` has submitted: its lines as they come, its status and its results."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from knot_fed.runs.log import FAILED, read_line
from tests.deployment.members import Member, until

STARTED = re.compile(r"started run (\d+)")


class Ended(NamedTuple):
    """How a run ended: Flower's status and details, knot_fed's error sentence if it failed, and seconds."""

    status: str
    details: str
    sentence: str
    seconds: float

    @property
    def completed(self):
        return self.status == "finished:completed"


@dataclass
class SubmittedRun:
    """A run of one SuperLink, from submission to its results."""

    process: subprocess.Popen
    folder: Path
    superlink: Member
    list_run: Callable[[str], dict]
    began: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self):
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip())

    def text(self):
        return "\n".join(self.lines)

    def await_said(self, text, *, timeout=90.0):
        until(lambda: text in self.text(), f"{text!r} of the run", timeout=timeout, log=self.superlink.log)

    @property
    def number(self):
        until(lambda: STARTED.search(self.text()) or self.process.poll(), "the number of the run")
        found = STARTED.search(self.text())
        assert found, self.text()
        return found.group(1)

    def status(self):
        """Ask the SuperLink for the status and its details."""
        run = self.list_run(self.number)
        return str(run["status"]), str(run.get("status-details") or run.get("details") or "")

    def wait(self, *, timeout=180.0):
        """Wait for the end of the run; a run that hangs is an AssertionError."""
        number, deadline = self.number, time.monotonic() + timeout
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=timeout)
        status, details = self.status()
        while not status.startswith("finished"):
            assert time.monotonic() < deadline, f"run {number} hangs as {status}\n{self.text()[-3000:]}"
            time.sleep(0.5)
            status, details = self.status()
        sentences = failures(self.text()) or failures(self.superlink.said())
        return Ended(status, details, sentences[-1] if sentences else "", time.monotonic() - self.began)

    def summary(self):
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))

    def rounds(self):
        return [json.loads(line) for line in (self.folder / "rounds.jsonl").read_text().splitlines()]

    def statuses(self):
        return {client["name"]: client["status"] for client in self.summary()["clients"]}


def failures(log):
    """Return the error sentences of the failed runs in a log."""
    return [line.text("text") for line in map(read_line, log.split("\n")) if line and line.event == FAILED]
