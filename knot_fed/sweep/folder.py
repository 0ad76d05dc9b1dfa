"""The folder of a sweep: its description, finished runs and tables; a second call resumes."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from knot_fed.config import RunConfig, Scalar, flattened
from knot_fed.errors import RunFolderError
from knot_fed.files import SHARED, write_file
from knot_fed.runs.results import NOT_COMPARED
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.study_folder import check_study, open_study
from knot_fed.runs.sweep_tables import METHOD
from knot_fed.sweep.content import CONTENT, content_digests
from knot_fed.sweep.grid import make_cells
from knot_fed.sweep.results import Row

SWEEP_FILE, TIMES_FILE, LOCK_FILE = "sweep.toml", "times.jsonl", ".lock"
METHODS = "methods"
NOT_OF_A_RUN = {*NOT_COMPARED, "resume", "wait-for"} - {"seed"}
"""Configuration keys that do not shape the result of a run."""


class SweepFolder:
    """The folder of one sweep, with runs in `cells` and `fedavg`; create or reopen it with `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells, self.fedavg, self._references = path / "cells", path / "fedavg", path / "references"

    @classmethod
    def open(
        cls, path: Path, *, config: RunConfig, grid: dict[str, list[Scalar]], clients: int, seeds: list[int],
        methods: Mapping[str, Mapping[str, Scalar]] | None = None,
    ) -> "SweepFolder":  # fmt: skip
        """Create the folder, or reopen one that differs in seeds only; the content of data files is compared too.

        Raises RunFolderError for any other folder, or if another sweep runs in it; nothing is overwritten.
        """
        swept = {key: value for key, value in config.to_mapping().items() if key not in NOT_COMPARED}
        content = content_digests([cell.config for cell in make_cells(config, grid, seeds[:1], methods)])
        laid = {name: dict(settings) for name, settings in (methods or {}).items()}
        varied = {METHOD: list(laid), **grid} if laid else grid
        described = {"clients": clients, "seeds": seeds, "config": swept, "grid": varied}
        described |= {CONTENT: content, METHODS: laid}
        folder, reopened = cls(path), (path / SWEEP_FILE).is_file()
        fixed, later = ("clients", "config", "grid", CONTENT, METHODS), (CONTENT, METHODS)
        check_study(path, described, file=SWEEP_FILE, kind="sweep", fixed=fixed, later=later)
        with folder.locked() if reopened else nullcontext():
            open_study(path, described, file=SWEEP_FILE, kind="sweep", fixed=fixed, later=later)
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other sweeps; raises RunFolderError if one is running in the folder."""
        try:
            with FileLock(self.path / LOCK_FILE, timeout=0):
                yield
        except Timeout:
            raise RunFolderError(f"{self.path}: another sweep is running in it; wait for it or stop it") from None

    def finished(self, runs: Path, name: str, config: RunConfig) -> dict[str, Any] | None:
        """Return the summary of a complete run, or None; raises RunFolderError if it is another run than `config`."""
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

    def record_time(self, run: Path, *, seconds: float) -> None:
        """Record how long one run took, including Flower."""
        with (self.path / TIMES_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": str(run.relative_to(self.path)), "seconds": seconds}) + "\n")

    def time_spent(self) -> str:
        """Describe the total time of the cells' runs and its parts."""
        file = self.path / TIMES_FILE
        kept = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        times = {line["run"]: line["seconds"] for line in map(json.loads, kept)}
        runs = sorted(self.cells.iterdir()) if self.cells.is_dir() else []
        finished = {f"cells/{run.name}": summary for run in runs if (summary := _completed(run))}
        asked = {run: summary for run, summary in finished.items() if not summary.get("answers_of")}
        alone = [summary["wall_seconds"] for run, summary in finished.items() if run not in asked]
        total = sum(times.get(run, 0.0) for run in asked) + sum(alone)
        distilling = sum(summary["distillation"]["seconds"] for summary in finished.values())
        teaching = sum(client["seconds"] for summary in asked.values() for client in summary["clients"])
        starting = sum(summary.get("start_seconds", 0.0) for summary in finished.values())
        return (
            f"{len(asked)} federation(s) and {len(alone)} student(s) from their answers took {total:.0f} s, one by one:"
            f" distillation {distilling:.0f} s, teachers {teaching:.0f} s, the students' starts {starting:.0f} s, the"
            f" rest {total - distilling - teaching - starting:.0f} s (Flower, Ray, evaluation)"
        )

    def load_references(self, name: str) -> list[Row] | None:
        """Return the stored baselines of that name, or None."""
        file = self._references / f"{name}.json"
        rows: list[Row] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        return rows

    def save_references(self, name: str, rows: list[Row]) -> None:
        """Store baselines atomically."""
        self._references.mkdir(exist_ok=True)
        write_file(self._references / f"{name}.json", json.dumps(rows).encode(), mode=SHARED)


def _completed(run: Path) -> dict[str, Any] | None:
    if not (run / "summary.json").is_file():
        return None
    summary = RunFolder.open(run).read_summary()
    return summary if summary["status"] == "ok" else None
