"""The folder of a sweep: what is swept, finished runs, and tables; a second call resumes where the first stopped."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from knot_fed.config import RunConfig, Scalar, flattened
from knot_fed.errors import RunFolderError
from knot_fed.files import SHARED, write_file
from knot_fed.runs.results import NOT_COMPARED
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.study_folder import check_study, open_study
from knot_fed.sweep.content import CONTENT, content_digests
from knot_fed.sweep.grid import make_cells
from knot_fed.sweep.results import Row

SWEEP_FILE, TIMES_FILE, LOCK_FILE = "sweep.toml", "times.jsonl", ".lock"
NOT_OF_A_RUN = {*NOT_COMPARED, "resume", "wait-for"} - {"seed"}
"""Keys of a run's configuration that shape nothing of its result."""


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """One sweep's folder; make or reopen it with `open`."""

    path: Path

    @classmethod
    def open(
        cls, path: Path, *, config: RunConfig, grid: dict[str, list[Scalar]], clients: int, seeds: list[int]
    ) -> "SweepFolder":
        """Make the folder, or reopen one of the same configuration, grid, files and number of clients.

        Seeds may differ. The files' digests are kept beside the configuration, which names them only.

        Raises
        ------
        RunFolderError
            If the folder holds anything else, cannot be made, or another sweep runs in it; nothing is overwritten then.
        """
        swept = {key: value for key, value in config.to_mapping().items() if key not in NOT_COMPARED}
        content = content_digests([cell.config for cell in make_cells(config, grid, seeds[:1])])
        described = {"clients": clients, "seeds": seeds, "config": swept, "grid": grid, CONTENT: content}
        folder, reopened = cls(path), (path / SWEEP_FILE).is_file()
        fixed, later = ("clients", "config", "grid", CONTENT), (CONTENT,)
        check_study(path, described, file=SWEEP_FILE, kind="sweep", fixed=fixed, later=later)
        with folder.locked() if reopened else nullcontext():
            open_study(path, described, file=SWEEP_FILE, kind="sweep", fixed=fixed, later=later)
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other sweeps out of the folder.

        Raises
        ------
        RunFolderError
            If another sweep is running in it.
        """
        try:
            with FileLock(self.path / LOCK_FILE, timeout=0):
                yield
        except Timeout:
            raise RunFolderError(f"{self.path}: another sweep is running in it; wait for it or stop it") from None

    @property
    def cells(self) -> Path:
        """Folder of the cells' runs."""
        return self.path / "cells"

    @property
    def fedavg(self) -> Path:
        """Folder of the runs of FedAvg."""
        return self.path / "fedavg"

    def finished(self, runs: Path, name: str, config: RunConfig) -> dict[str, Any] | None:
        """Return the summary of a run that was completed, or None.

        Raises
        ------
        RunFolderError
            If what was completed under this name is a run of another configuration or method.
        """
        summary = _completed(runs / name)
        if summary is None:
            return None
        kept, ours = flattened(RunFolder.open(runs / name).read_config()), config.to_mapping()
        differing = [key for key in {*kept, *ours} - NOT_OF_A_RUN if kept.get(key) != ours.get(key)]
        differing += [] if ("fedavg" if runs == self.fedavg else "distillation") in summary else ["the method"]
        if differing:
            raise RunFolderError(
                f"{runs / name}: is a run of another configuration than this sweep's (differs in"
                f" {', '.join(sorted(differing))}); move it away, and call again to run it once more"
            )
        return summary

    def clear(self, runs: Path, name: str) -> None:
        """Remove what an interrupted run left, so that it can start again."""
        shutil.rmtree(runs / name, ignore_errors=True)

    def record_time(self, run: Path, *, seconds: float) -> None:
        """Keep how long one run took, Flower and all."""
        with (self.path / TIMES_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": str(run.relative_to(self.path)), "seconds": seconds}) + "\n")

    def time_spent(self) -> str:
        """Say how long the runs of cells took, one by one, and for what; a run without a kept time is left out."""
        file = self.path / TIMES_FILE
        kept = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        times = {line["run"]: line["seconds"] for line in map(json.loads, kept)}
        found = {name: _completed(self.cells / Path(name).name) for name in times if Path(name).parent.name == "cells"}
        summaries = {name: summary for name, summary in found.items() if summary}
        total = sum(times[name] for name in summaries)
        distilling = sum(summary["distillation"]["seconds"] for summary in summaries.values())
        teaching = sum(client["seconds"] for summary in summaries.values() for client in summary["clients"])
        return (
            f"{len(summaries)} runs took {total:.0f} s, one by one: distillation {distilling:.0f} s, teachers"
            f" {teaching:.0f} s, the rest {total - distilling - teaching:.0f} s (Flower, Ray, starting, evaluation)"
        )

    def kept_references(self, name: str) -> list[Row] | None:
        """Return the reference lines of that name, if they were computed."""
        file = self._references(name)
        if not file.is_file():
            return None
        rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))
        return rows

    def keep_references(self, name: str, rows: list[Row]) -> None:
        """Keep reference lines, whole or not at all."""
        file = self._references(name)
        file.parent.mkdir(exist_ok=True)
        write_file(file, json.dumps(rows).encode(), mode=SHARED)

    def _references(self, name: str) -> Path:
        return self.path / "references" / f"{name}.json"


def _completed(run: Path) -> dict[str, Any] | None:
    if not (run / "summary.json").is_file():
        return None
    summary = RunFolder.open(run).read_summary()
    return summary if summary["status"] == "ok" else None
