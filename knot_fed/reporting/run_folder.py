"""The run folder: resolved configuration, rounds, summary, pooled soft labels, student."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from jaxtyping import Float

from knot_fed.config import Scalar, nested
from knot_fed.errors import RunFolderError

_SUMMARY = {
    "error", "task", "seed", "labels", "clients", "student", "domains", "privacy", "versions",
    "wall_seconds",
}  # fmt: skip
_METHODS = {"distillation", "fedavg"}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder; make it with `create` or `open`."""

    path: Path

    @classmethod
    def create(cls, runs_dir: Path, name: str) -> "RunFolder":
        """Make a new run folder.

        Raises
        ------
        RunFolderError
            If the name is not a plain file name, or is taken.
        """
        if not (_NAME.fullmatch(name) and name.strip(".")):
            raise RunFolderError(
                f"run name {name!r} is not letters, digits, dots, dashes and underscores; rename the run"
            )
        path = runs_dir / name
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise RunFolderError(
                f"{path}: there is a run of this name; give another name, or delete the folder"
            ) from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Raises
        ------
        RunFolderError
            If there is none.
        """
        if not (path / "config.toml").is_file():
            raise RunFolderError(f"{path}: no run folder here (no config.toml); give the path that the run printed")
        return cls(path)

    @property
    def student(self) -> Path:
        """Folder of the distilled student."""
        return self.path / "student"

    def write_config(self, config: Mapping[str, Scalar]) -> None:
        """Write the resolved configuration as TOML tables."""
        self._write("config.toml", tomli_w.dumps(nested(config)))

    def read_config(self) -> dict[str, Any]:
        """Read the resolved configuration as TOML tables; empty where none was written.

        Raises
        ------
        RunFolderError
            If `config.toml` is not TOML.
        """
        file = self.path / "config.toml"
        try:
            return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except ValueError:
            raise RunFolderError(f"{file}: is not TOML; mend it or start the run again") from None

    def append_round(self, facts: Mapping[str, object]) -> None:
        """Append one round's facts to `rounds.jsonl`."""
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts, sort_keys=True) + "\n")

    def save_pooled(self, round_number: int, pooled: Float[np.ndarray, "examples classes"]) -> None:
        """Keep what the teachers said together in one round."""
        np.save(self.path / f"pooled-soft-labels-{round_number}.npy", pooled)

    def write_assignment(self, client: str, assignment: Mapping[str, list[int]]) -> None:
        """Keep which rows of a shared file one virtual client holds."""
        folder = self.path / "partition"
        folder.mkdir(exist_ok=True)
        (folder / f"{client}.json").write_text(json.dumps(assignment), encoding="utf-8")

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write `summary.json`, whole or not at all."""
        self._write("summary.json", json.dumps(summary, indent=2, sort_keys=True) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """Read `summary.json`.

        Raises
        ------
        RunFolderError
            If the run left none, or it is not a summary.
        """
        try:
            summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RunFolderError(
                f"{self.path}: no readable summary.json; the run stopped early, start it again"
            ) from None
        missing = sorted(_SUMMARY - set(summary))
        if not _METHODS & set(summary):
            missing.append(" or ".join(sorted(_METHODS)))
        if missing:
            raise RunFolderError(f"{self.path}: summary.json lacks {', '.join(missing)}; start the run again")
        return summary

    def read_rounds(self) -> list[dict[str, Any]]:
        """Read the rounds written so far.

        Raises
        ------
        RunFolderError
            If a line is not JSON.
        """
        file = self.path / "rounds.jsonl"
        if not file.is_file():
            return []
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except ValueError:
            raise RunFolderError(f"{file}: a line is not JSON; delete the file or start the run again") from None

    def _write(self, name: str, text: str) -> None:
        partial = self.path / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(self.path / name)
