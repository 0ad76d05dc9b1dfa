"""The client's ledger of releases: append-only, on disk before anything is computed, and never counting too little."""

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knot_fed.errors import PolicyError, PrivacyError
from knot_fed.privacy.accounting import NoiseEvent


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One release.

    Parameters
    ----------
    run, round
        Of the federation that asked.
    texts
        How many it was answered.
    mechanism, unit, epsilon, delta
        The claim: of the teacher for DP-SGD, else of this request. Without a guarantee epsilon is infinite.
    answer
        Digest of what was released: of a DP-SGD teacher, or of a noisy answer. The same again costs nothing new.
    noise
        What accounting reads; None: no guarantee.
    new
        Whether it costs anything; not, where the same was released before.
    """

    run: str
    round: int
    texts: int
    mechanism: str = "none"
    unit: str = "none"
    epsilon: float = float("inf")
    delta: float = 0.0
    answer: str = ""
    noise: NoiseEvent | None = None
    new: bool = True

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
        if fields["texts"] < 0:
            raise ValueError
        noise = fields.get("noise")
        return cls(**{**fields, "run": str(fields["run"]), "noise": NoiseEvent(**noise) if noise else None})


class Ledger:
    """JSON lines, one for each release.

    Parameters
    ----------
    path
        The file; made with its folder at the first release.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> list[LedgerEntry]:
        """Read all releases.

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

    def charge(self, decide: Callable[[Sequence[LedgerEntry]], LedgerEntry]) -> list[LedgerEntry]:
        """Write down a release before it is computed; returns all entries when it is on disk.

        Parameters
        ----------
        decide
            Called with all earlier entries; returns the one to write, or raises PolicyError to refuse. No other
            process can write in between.

        Raises
        ------
        PolicyError
            If the release is refused, or the ledger cannot be read; nothing is written then.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        first = not self._path.exists()
        with self._path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = self.entries()
            entry = decide(before)
            whole = self._path.stat().st_size == 0 or self._path.read_bytes().endswith(b"\n")
            file.write((b"" if whole else b"\n") + entry.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if first:
            folder = os.open(self._path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        return [*before, entry]
