"""The trackers of one run together: each fails alone, and none is told a step twice, not even after a restart."""

import json
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from knot_fed.files import OWNERS, write_file
from knot_fed.runs.trackers.tracker import Axis, TrackedRun, Tracker

RECORD = "trackers.json"
"""File of the run folder with the identifiers and the last steps of each tracker, until the run has ended."""
LONGEST_REASON = 200
_CREDENTIALS = re.compile(r"//[^/@\s]+@")

logger = logging.getLogger("knot_fed")


class Trackers:
    """Passes what a run logs to its trackers; a tracker that fails is left out from then on.

    Parameters
    ----------
    trackers
        By name; they are started here.
    run
        The run; None without trackers.
    resumed
        Whether the run goes on in the boards of an interrupted one.
    """

    def __init__(
        self, trackers: Mapping[str, Callable[[], Tracker]], run: TrackedRun | None = None, *, resumed: bool = False
    ) -> None:
        self._record = run.folder / RECORD if run else None
        self._known = _read(self._record) if self._record and resumed else {}
        self._working: dict[str, Tracker] = {}
        self._started = time.monotonic()
        for name, build in trackers.items():
            self._start(name, build, run)
        self._save()

    def _start(self, name: str, build: Callable[[], Tracker], run: TrackedRun | None) -> None:
        def start() -> None:
            tracker = build()
            known = self._known.setdefault(name, {"id": "", "steps": {}})
            known["id"] = tracker.start(run, resumed=known["id"]) if run else ""
            self._working[name] = tracker

        _attempt(name, start)

    @property
    def seconds(self) -> float:
        """Seconds since the trackers were started."""
        return time.monotonic() - self._started

    def log(self, scalars: Mapping[str, Mapping[int, float]], *, axis: Axis = "round") -> None:
        """Log the values of scalars by name and step; steps that a tracker knows are left out.

        Steps of a name ascend from call to call.
        """
        fresh = {name: self._fresh(name, scalars) for name in self._working}
        self._save()  # first, so that a run that is killed here logs nothing twice
        for name, rows in fresh.items():
            if rows:
                self._tell(name, partial(self._working[name].log, rows, axis=axis))

    def _fresh(self, tracker: str, scalars: Mapping[str, Mapping[int, float]]) -> dict[int, dict[str, float]]:
        """Take the steps that a tracker does not know, in ascending order, and note them as known."""
        steps, rows = self._known[tracker]["steps"], dict[int, dict[str, float]]()
        for name, values in scalars.items():
            last = steps.get(name, -math.inf)
            for step in values:
                if step > last:
                    rows.setdefault(step, {})[name] = float(values[step])
                    steps[name] = max(step, steps.get(name, step))
        return dict(sorted(rows.items()))

    def log_file(self, name: str, text: str) -> None:
        """Keep a file in each tracker that keeps files."""
        for tracker in list(self._working):
            self._tell(tracker, partial(self._working[tracker].log_file, name, text))

    def finish(self, *, ok: bool) -> None:
        """Finish all trackers; later calls do nothing."""
        for name in list(self._working):
            self._tell(name, partial(self._working[name].finish, ok=ok))
        self._working.clear()
        if ok and self._record:
            self._record.unlink(missing_ok=True)

    def _tell(self, name: str, call: Callable[[], None]) -> None:
        if not _attempt(name, call):
            del self._working[name]

    def _save(self) -> None:
        if self._record and self._working:
            content = json.dumps(self._known, sort_keys=True).encode()
            _attempt(RECORD, partial(write_file, self._record, content, mode=OWNERS))


def _attempt(name: str, call: Callable[[], None]) -> bool:
    """Call, and return whether that worked; a failure is one line of the log."""
    try:
        call()
    except Exception as error:
        logger.warning("tracker %s failed, and the run goes on without it: %s", name, _reason(error))
        return False
    return True


def _reason(error: Exception) -> str:
    """Return the class and the first line of an error, without credentials in addresses."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {_CREDENTIALS.sub('//', first)[:LONGEST_REASON]}"


def _read(file: Path) -> dict[str, Any]:
    """Read the record of an interrupted run; empty if there is none that can be read, and the boards start again."""
    try:
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known


NO_TRACKERS = Trackers({})
