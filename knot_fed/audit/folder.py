"""The folder of an audit: its description, one file for each attack and seed, and the tables."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from knot_fed.audit.attacks.findings import COLUMNS, Effort, Findings, Scores
from knot_fed.audit.attacks.registry import ATTACKS
from knot_fed.config import RunConfig
from knot_fed.files import SHARED, write_file
from knot_fed.runs.results import NOT_COMPARED
from knot_fed.runs.study_folder import open_study
from knot_fed.sweep.content import CONTENT, content_digests

AUDIT_FILE, TABLE_FILE = "audit.toml", "attacks.csv"


@dataclass(frozen=True, slots=True)
class AuditFolder:
    """The folder of one audit; create or reopen it with `open`."""

    path: Path

    @classmethod
    def open(cls, path: Path, *, config: RunConfig, effort: Effort, client: str, clients: int) -> "AuditFolder":
        """Create the folder, or reopen one that differs in attacks and seeds only, else raise RunFolderError."""
        audited = {key: value for key, value in config.to_mapping().items() if key not in NOT_COMPARED}
        described = {"client": client, "clients": clients, "effort": asdict(effort), "config": audited}
        described[CONTENT] = content_digests([config])
        open_study(path, described, file=AUDIT_FILE, kind="audit", fixed=tuple(described), later=(CONTENT,))
        (path / "parts").mkdir(exist_ok=True)
        return cls(path)

    def finished(self, attack: str, seed: int) -> bool:
        """Return whether an attack on one seed's run is complete."""
        return self._part(attack, seed, "json").is_file()

    def keep(self, attack: str, seed: int, findings: Findings) -> None:
        """Write the findings of an attack; the JSON file, written last, marks it as complete."""
        scores = {
            f"{kind}: {case}": array
            for case, pair in findings.scores.items()
            for kind, array in zip(("scores", "members"), pair, strict=True)
        }
        np.savez_compressed(self._part(attack, seed, "npz"), allow_pickle=False, **scores)
        rows = [
            {"seed": seed, "client": found.client, "attack": attack, "case": found.case, "measure": found.measure}
            | asdict(found.estimate) | {"count": found.count}
            for found in findings.found
        ]  # fmt: skip
        write_file(self._part(attack, seed, "json"), json.dumps(rows).encode(), mode=SHARED)

    def parts(self) -> list[tuple[str, int]]:
        """Return attack and seed of each complete part, in the order of `ATTACKS`."""
        files = {attack: (self.path / "parts").glob(f"{attack}-seed-*.json") for attack in ATTACKS}
        return [
            (attack, seed)
            for attack, found in files.items()
            for seed in sorted(int(file.stem.rpartition("-")[2]) for file in found)
        ]

    def table(self) -> pd.DataFrame:
        """Return the rows of all complete parts."""
        kept = [self._part(attack, seed, "json") for attack, seed in self.parts()]
        rows: list[dict[str, Any]] = [row for file in kept for row in json.loads(file.read_text(encoding="utf-8"))]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def scores(self, attack: str) -> dict[str, Scores]:
        """Return scores and membership of an attack by case, over all seeds."""
        files = [self._part(attack, seed, "npz") for kept, seed in self.parts() if kept == attack]
        loaded = [np.load(file, allow_pickle=False) for file in files]
        cases = [name.removeprefix("scores: ") for name in (loaded[0].files if loaded else []) if "scores: " in name]

        def joined(name: str) -> np.ndarray:
            return np.concatenate([kept[name].ravel() for kept in loaded])[None]

        return {case: (joined(f"scores: {case}"), joined(f"members: {case}")) for case in cases}

    def _part(self, attack: str, seed: int, suffix: str) -> Path:
        return self.path / "parts" / f"{attack}-seed-{seed}.{suffix}"
