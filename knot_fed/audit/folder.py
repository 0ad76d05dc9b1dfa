"""The folder of an audit: what is attacked, one file for each attack and seed, and the tables."""

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
    """One audit's folder; make or reopen it with `open`."""

    path: Path

    @classmethod
    def open(cls, path: Path, *, config: RunConfig, effort: Effort, client: str, clients: int) -> "AuditFolder":
        """Make the folder, or reopen one of the same configuration, files, effort and clients.

        Attacks and seeds may differ.

        Raises
        ------
        RunFolderError
            If the folder holds anything else, or cannot be made; nothing is overwritten then.
        """
        audited = {key: value for key, value in config.to_mapping().items() if key not in NOT_COMPARED}
        described: dict[str, Any] = {"client": client, "clients": clients, "effort": asdict(effort), "config": audited}
        described[CONTENT] = content_digests([config])
        open_study(path, described, file=AUDIT_FILE, kind="audit", fixed=tuple(described), later=(CONTENT,))
        (path / "parts").mkdir(exist_ok=True)
        return cls(path)

    def finished(self, attack: str, seed: int) -> bool:
        """Tell whether an attack on one seed's run was completed."""
        return self._part(attack, seed, "json").is_file()

    def keep(self, attack: str, seed: int, findings: Findings) -> None:
        """Keep what an attack found, whole or not at all."""
        scores = {f"{kind}: {case}": array for case, pair in findings.scores.items() for kind, array in _named(pair)}
        np.savez_compressed(self._part(attack, seed, "npz"), allow_pickle=False, **scores)
        rows = [
            {"seed": seed, "client": found.client, "attack": attack, "case": found.case, "measure": found.measure}
            | asdict(found.estimate) | {"count": found.count}
            for found in findings.found
        ]  # fmt: skip
        write_file(self._part(attack, seed, "json"), json.dumps(rows).encode(), mode=SHARED)

    def parts(self) -> list[tuple[str, int]]:
        """Return the attack and the seed of each part that was completed, by whichever call, in the attacks' order."""
        return [
            (attack, seed)
            for attack in ATTACKS
            for seed in sorted(
                int(file.stem.rpartition("-")[2]) for file in (self.path / "parts").glob(f"{attack}-seed-*.json")
            )
        ]

    def table(self) -> pd.DataFrame:
        """Return the rows of all parts that were completed."""
        kept = [self._part(attack, seed, "json") for attack, seed in self.parts()]
        rows: list[dict[str, Any]] = [row for file in kept for row in json.loads(file.read_text(encoding="utf-8"))]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def scores(self, attack: str) -> dict[str, Scores]:
        """Return the scores of an attack by case, and the truth, those of all seeds one under the other."""
        files = [self._part(attack, seed, "npz") for kept, seed in self.parts() if kept == attack]
        loaded = [np.load(file, allow_pickle=False) for file in files]
        cases = [name.removeprefix("scores: ") for name in (loaded[0].files if loaded else []) if "scores: " in name]
        return {
            case: (
                np.concatenate([kept[f"scores: {case}"].ravel() for kept in loaded])[None],
                np.concatenate([kept[f"members: {case}"].ravel() for kept in loaded])[None],
            )
            for case in cases
        }

    def _part(self, attack: str, seed: int, suffix: str) -> Path:
        return self.path / "parts" / f"{attack}-seed-{seed}.{suffix}"


def _named(pair: Scores) -> tuple[tuple[str, np.ndarray], tuple[str, np.ndarray]]:
    return ("scores", pair[0]), ("members", pair[1])
