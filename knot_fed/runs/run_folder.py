"""The run folder: resolved configuration, rounds, summary, pooled soft labels, student."""

import io
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from jaxtyping import Float

from knot_fed.config import Scalar, flattened, nested
from knot_fed.errors import RunFolderError, writing_failed
from knot_fed.files import OWNERS, PUBLIC, SHARED, file_digest, make_folder, write_file
from knot_fed.runs.trackers.trackers import NO_TRACKERS, Trackers

_SUMMARY = {
    "error", "task", "seed", "labels", "clients", "student", "domains", "privacy", "versions",
    "wall_seconds",
}  # fmt: skip
POOLED, TEXT_WEIGHTS = "pooled-soft-labels", "text-weights"
CHECKPOINT = "checkpoint.safetensors"
_KINDS = {"clients": list, "domains": dict, "labels": list, "privacy": dict, "student": dict, "versions": dict}
_METHODS = {"distillation", "fedavg"}
_FREE_TO_CHANGE = {"name", "resume", "wait-for", "timeout", "runs-dir", "state-dir", "keep-answers", "trackers"}
"""Keys that change no result: a run may be resumed with other values, e.g. after its folder was moved."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


def _with_later_metrics(summary: dict[str, Any]) -> dict[str, Any]:
    """Add the metrics that an older version did not measure, as NaN."""
    for measured in (*summary["domains"].values(), summary["student"]):
        for metrics in measured.values() if isinstance(measured, dict) else ():
            if isinstance(metrics, dict):
                metrics.setdefault("sd_calibrated", math.nan)
    return summary


def taken(path: Path) -> RunFolderError:
    """Return the error for an existing run folder."""
    return RunFolderError(f"{path}: a run of this name exists; choose another name, or delete the folder")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder, and the trackers that follow the run; make it with `create` or `open`."""

    path: Path
    trackers: Trackers = field(default=NO_TRACKERS, compare=False, repr=False)

    @classmethod
    def create(cls, runs_dir: Path, name: str) -> "RunFolder":
        """Create a new run folder.

        Raises
        ------
        RunFolderError
            If the name is invalid or exists, or the folder cannot be created.
        """
        if not (_NAME.fullmatch(name) and name.strip(".")):
            raise RunFolderError(
                f"run name {name!r} is not letters, digits, dots, dashes and underscores; rename the run"
            )
        path = runs_dir / name
        if os.path.lexists(path):
            raise taken(path)
        try:
            make_folder(path.parent, mode=PUBLIC)
            path.mkdir(mode=PUBLIC)
        except OSError as error:
            if os.path.lexists(path):
                raise taken(path) from None
            raise RunFolderError(f"{path}: cannot be created: {writing_failed(error)}") from None
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
            raise RunFolderError(f"{path}: not a run folder (no config.toml); give the path that the run printed")
        return cls(path)

    @classmethod
    def resume(cls, path: Path, config: Mapping[str, Scalar]) -> "RunFolder":
        """Open the folder of an interrupted run, to resume it.

        Parameters
        ----------
        path
            The run folder.
        config
            The resolved configuration; must equal the run's, except for names, folders and waiting times.

        Raises
        ------
        RunFolderError
            If there is nothing to resume, or the configuration differs.
        """
        if not (path / CHECKPOINT).is_file():
            state = "is finished" if (path / "summary.json").is_file() else "received no soft labels, or is not there"
            raise RunFolderError(f"{path}: nothing to resume, since the run {state}; start a run of another name")
        folder = cls(path)
        before = flattened(folder.read_config())
        unknown = (set(before) ^ set(config)) - _FREE_TO_CHANGE
        if unknown:
            raise RunFolderError(
                f"{path}: is a run of another version of knot_fed (only one of them has {', '.join(sorted(unknown))});"
                " resume it with that version, or start a run of another name"
            )
        differing = {key for key in {*before, *config} - _FREE_TO_CHANGE if before.get(key) != config.get(key)}
        if differing:
            raise RunFolderError(
                f"{path}: is a run of another configuration (differs in {', '.join(sorted(differing))});"
                " resume it with its own config.toml"
            )
        return folder

    @property
    def checkpoint(self) -> Path:
        """The file from which distillation resumes; removed at the end of the run."""
        return self.path / CHECKPOINT

    def answers(self, round_number: int) -> Path:
        """Return the file of the answers of one round."""
        return self.path / f"answers-{round_number}.safetensors"

    @property
    def student(self) -> Path:
        """Folder of the distilled student."""
        return self.path / "student"

    def write_config(self, config: Mapping[str, Scalar]) -> None:
        """Write the resolved configuration as TOML tables."""
        self._write("config.toml", tomli_w.dumps(nested(config)).encode())

    def read_config(self) -> dict[str, Any]:
        """Read the resolved configuration as TOML tables; empty if there is none.

        Raises
        ------
        RunFolderError
            If `config.toml` is not TOML.
        """
        file = self.path / "config.toml"
        try:
            return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except ValueError:
            raise RunFolderError(f"{file}: not valid TOML; correct it or start the run again") from None

    def config_digest(self) -> str:
        """Return the SHA-256 of `config.toml`; empty if there is none."""
        file = self.path / "config.toml"
        return file_digest(file) if file.is_file() else ""

    def append_round(self, facts: Mapping[str, object]) -> None:
        """Append one round to `rounds.jsonl`."""
        self._write_rounds([*self.read_rounds(), facts])

    def keep_rounds(self, *, before: int) -> None:
        """Drop the rounds from this one on, which a resumed run repeats."""
        self._write_rounds([facts for facts in self.read_rounds() if facts["round"] < before])

    def save_pooled(
        self,
        round_number: int,
        pooled: Float[np.ndarray, "examples classes"],
        text_weights: Float[np.ndarray, "examples"],
    ) -> None:
        """Write the pooled soft labels of one round, and the weight of each text."""
        for name, array in ((POOLED, pooled), (TEXT_WEIGHTS, text_weights)):
            file = io.BytesIO()
            np.save(file, array)
            self._write(f"{name}-{round_number}.npy", file.getvalue())

    def read_pooled(self, round_number: int) -> Float[np.ndarray, "examples classes"]:
        """Read the pooled soft labels of one round; raises RunFolderError if the file is missing or damaged."""
        return self._read_round(POOLED, round_number)

    def read_text_weights(self, round_number: int) -> Float[np.ndarray, "examples"]:
        """Read the weight of each text in one round's distillation; raises as `read_pooled`."""
        return self._read_round(TEXT_WEIGHTS, round_number)

    def _read_round(self, name: str, round_number: int) -> np.ndarray:
        file = self.path / f"{name}-{round_number}.npy"
        try:
            array: np.ndarray = np.load(file)
        except (OSError, ValueError):
            raise RunFolderError(
                f"{file}: missing or unreadable; the run stopped before the end of that round, start it again"
            ) from None
        return array

    def pooled_texts(self) -> int:
        """Return the number of transfer texts with pooled soft labels, over all rounds; 0 if it cannot be read."""
        try:
            rounds = [len(np.load(file, mmap_mode="r")) for file in self.path.glob(f"{POOLED}-*.npy")]
            return max(rounds, default=0) if self.read_config().get("round-texts") == "all" else sum(rounds)
        except (OSError, ValueError, TypeError):
            return 0

    def write_answers(self, round_number: int, answers: bytes) -> None:
        """Write the answers of one round, readable by their owner only: they are soft labels of single clients."""
        self._write(self.answers(round_number).name, answers, mode=OWNERS)

    def write_checkpoint(self, checkpoint: bytes) -> None:
        """Write the checkpoint, readable by its owner only: it may hold the soft labels of single clients."""
        self._write(CHECKPOINT, checkpoint, mode=OWNERS)

    def write_assignment(self, client: str, assignment: Mapping[str, list[int]]) -> None:
        """Write which rows of a shared file one virtual client holds."""
        folder = self.path / "partition"
        folder.mkdir(exist_ok=True)
        (folder / f"{client}.json").write_text(json.dumps(assignment), encoding="utf-8")

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write `summary.json` atomically."""
        self._write("summary.json", (json.dumps(summary, indent=2, sort_keys=True) + "\n").encode())

    def read_summary(self) -> dict[str, Any]:
        """Read `summary.json`.

        Raises
        ------
        RunFolderError
            If it is missing or invalid.
        """
        try:
            summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RunFolderError(
                f"{self.path}: summary.json missing or unreadable; the run stopped early, start it again"
            ) from None
        if not isinstance(summary, dict):
            raise RunFolderError(f"{self.path}: summary.json is not a JSON object; start the run again")
        missing = sorted(_SUMMARY - set(summary))
        if not _METHODS & set(summary):
            missing.append(" or ".join(sorted(_METHODS)))
        if missing:
            raise RunFolderError(f"{self.path}: summary.json lacks {', '.join(missing)}; start the run again")
        wrong = [key for key, kind in _KINDS.items() if not isinstance(summary[key], kind)]
        wrong += [] if wrong or all(isinstance(client, dict) for client in summary["clients"]) else ["clients"]
        if wrong:
            raise RunFolderError(
                f"{self.path}: summary.json holds {' and '.join(wrong)} of the wrong type; start the run again"
            )
        return _with_later_metrics(summary)

    def read_rounds(self) -> list[dict[str, Any]]:
        """Read the rounds written so far.

        Raises
        ------
        RunFolderError
            If a line is not JSON, or not a round.
        """
        file = self.path / "rounds.jsonl"
        if not file.is_file():
            return []
        try:
            rounds = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except ValueError:
            raise RunFolderError(f"{file}: not valid JSON lines; delete the file or start the run again") from None
        if not all(isinstance(facts, dict) and isinstance(facts.get("round"), int) for facts in rounds):
            raise RunFolderError(f"{file}: a line is not a round; delete the file or start the run again")
        return rounds

    def _write_rounds(self, rounds: Sequence[Mapping[str, object]]) -> None:
        self._write("rounds.jsonl", "".join(json.dumps(facts, sort_keys=True) + "\n" for facts in rounds).encode())

    def _write(self, name: str, content: bytes, *, mode: int = SHARED) -> None:
        try:
            write_file(self.path / name, content, mode=mode)
        except OSError as error:
            raise RunFolderError(
                f"{self.path / name}: cannot be written: {writing_failed(error, then='resume the run')}"
            ) from None
