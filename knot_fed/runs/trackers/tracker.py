"""The interface of a tracker, and what it is told of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

Axis: TypeAlias = Literal["epoch", "round"]
"""What a step counts: epochs of distillation over all rounds, or rounds."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker learns at the start of a run.

    Parameters
    ----------
    folder
        The run folder; its name is the run's.
    settings
        The resolved configuration, without folders of data and names of files.
    tags
        Task, loss and versions, by name.
    """

    folder: Path
    settings: Mapping[str, str]
    tags: Mapping[str, str]


@runtime_checkable
class Tracker(Protocol):
    """Writes a run to one kind of board; any method may raise any exception, which ends the tracker and not the run."""

    def start(self, run: TrackedRun, *, resumed: str) -> str:
        """Open the board of a run, or with what this method once returned the board of a resumed run."""
        ...

    def log(self, rows: Mapping[int, Mapping[str, float]], *, axis: Axis) -> None:
        """Write scalars by step and name, so that an open board shows them now."""
        ...

    def log_file(self, name: str, text: str) -> None:
        """Keep a file of the run."""
        ...

    def finish(self, *, ok: bool) -> None:
        """Write what is left, with the status of the run, and end all processes and threads of the tracker."""
        ...
