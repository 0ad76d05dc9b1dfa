"""The client's ledger of releases: append-only, on disk before anything is computed, and never counting too little."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knot_fed.errors import PolicyError, PrivacyError
from knot_fed.folders import make_folder, open_privately
from knot_fed.privacy.accounting import NoiseEvent


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What one reply tells: texts labelled or a student evaluated, or the transfer set that a run is bound to.

    Parameters
    ----------
    run, round
        Of the federation that asked.
    texts
        How many it was answered; entries without any tell no soft labels.
    mechanism, unit, epsilon, delta
        The claim: of the teacher for DP-SGD, else of this request. Without a guarantee epsilon is infinite.
    answer
        Digest of what was released: of a DP-SGD teacher, or of a noisy answer. The same again costs nothing new.
    noise
        What accounting reads; None: no guarantee.
    new
        Whether it costs anything; not, where the same was released before.
    evaluations
        Students measured.
    fingerprint
        Of the transfer set that the run is bound to from here on.
    """

    run: str
    round: int = 0
    texts: int = 0
    mechanism: str = "none"
    unit: str = "none"
    epsilon: float = float("inf")
    delta: float = 0.0
    answer: str = ""
    noise: NoiseEvent | None = None
    new: bool = True
    evaluations: int = 0
    fingerprint: str = ""

    def event(self, unit: str) -> NoiseEvent | None:
        """Return what this costs one `record` or the whole `client`, which no record-level mechanism protects."""
        return self.noise if unit == "record" or self.unit == "client" else None

    def to_json(self) -> str:
        """Return the entry as one line; an infinite epsilon is null."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["epsilon"] = None if self.epsilon == float("inf") else self.epsilon
        fields["noise"] = self.noise and {name: getattr(self.noise, name) for name in self.noise.__dataclass_fields__}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, line: str) -> "LedgerEntry":
        """Parse a line; one of before there were mechanisms has no guarantee. Raises ValueError and its kin."""
        fields = {name: value for name, value in json.loads(line).items() if value is not None}
        counts = (fields["texts"], fields.get("evaluations", 0))
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError
        noise = fields.get("noise")
        return cls(**{**fields, "run": str(fields["run"]), "noise": NoiseEvent(**noise) if noise else None})


class Ledger:
    """JSON lines, one for each reply; every one counts, also one that repeats another.

    Parameters
    ----------
    path
        The file; made with its folder at the first release.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other run of this node count or release meanwhile."""
        make_folder(self._path.parent)
        with open(self._path.with_suffix(".lock"), "w", opener=open_privately) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def entries(self) -> list[LedgerEntry]:
        """Read all entries.

        Raises
        ------
        PolicyError
            If a line cannot be read, such as a last one that was cut: it may tell of any release, so it counts as the
            whole budget.
        """
        if not self._path.exists():
            return []
        try:
            return [LedgerEntry.from_json(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, PrivacyError):
            raise PolicyError(
                f"{self._path.name}: a line of the ledger cannot be read and may stand for any release, so nothing"
                " leaves; mend or archive the ledger"
            ) from None

    def released_in_life(self) -> int:
        """Count the texts answered so far; raises PolicyError as `entries` does."""
        return sum(entry.texts for entry in self.entries())

    def evaluated_in_run(self, run: str) -> int:
        """Count the students measured in one run; raises PolicyError as `entries` does."""
        return sum(entry.evaluations for entry in self.entries() if entry.run == run)

    def transfer_set_of_run(self, run: str) -> str:
        """Return the fingerprint that a run is bound to, or nothing; raises PolicyError as `entries` does."""
        return next((entry.fingerprint for entry in self.entries() if entry.run == run and entry.fingerprint), "")

    def charge(self, decide: Callable[[Sequence[LedgerEntry]], LedgerEntry]) -> list[LedgerEntry]:
        """Write down a release before it is computed; returns all releases when it is on disk.

        Parameters
        ----------
        decide
            Called with all earlier releases; returns the one to write, or raises PolicyError to refuse. No other
            process can write in between.

        Raises
        ------
        PolicyError
            If the release is refused, or the ledger cannot be read; nothing is written then.
        """
        with self.locked():
            before = [entry for entry in self.entries() if entry.texts]
            entry = decide(before)
            self.record(entry)
        return [*before, entry]

    def record(self, entry: LedgerEntry) -> None:
        """Write an entry down, under the lock; returns when it is on disk."""
        make_folder(self._path.parent)
        first = not self._path.exists()
        with open(self._path, "ab", opener=open_privately) as file:
            whole = first or self._path.stat().st_size == 0 or self._path.read_bytes().endswith(b"\n")
            file.write((b"" if whole else b"\n") + entry.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if first:
            folder = os.open(self._path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
