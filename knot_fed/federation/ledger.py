"""The client's ledger of releases: append-only, on disk before anything leaves, and never counting too little."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from knot_fed.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Entry:
    """What one reply tells: texts labelled, or students evaluated, and the transfer set that the run is bound to."""

    run: str
    round: int = 0
    texts: int = 0
    evaluations: int = 0
    fingerprint: str = ""


class Ledger:
    """JSON lines, one for each release; every reply counts, also one that repeats another.

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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def released_in_life(self) -> int:
        """Count the texts answered so far.

        Raises
        ------
        PolicyError
            If the ledger cannot be read, since nothing may leave uncounted.
        """
        return sum(entry.texts for entry in self._entries())

    def released_in_run(self, run: str) -> int:
        """Count the texts answered in one run; raises PolicyError as `released_in_life` does."""
        return sum(entry.texts for entry in self._entries() if entry.run == run)

    def evaluated_in_run(self, run: str) -> int:
        """Count the students measured in one run; raises PolicyError as `released_in_life` does."""
        return sum(entry.evaluations for entry in self._entries() if entry.run == run)

    def transfer_set_of_run(self, run: str) -> str:
        """Return the fingerprint that a run is bound to, or nothing; raises PolicyError as `released_in_life` does."""
        return next((entry.fingerprint for entry in self._entries() if entry.run == run and entry.fingerprint), "")

    def record(self, entry: Entry) -> None:
        """Write down a release before it leaves; returns when it is on disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(entry)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _entries(self) -> list[Entry]:
        if not self._path.exists():
            return []
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
            entries = [Entry(**line) for line in map(json.loads, lines)]
            if not all(isinstance(entry.texts, int) and isinstance(entry.evaluations, int) for entry in entries):
                raise ValueError
            return entries
        except (OSError, ValueError, KeyError, TypeError):
            raise PolicyError(
                f"{self._path.name}: a line of the ledger cannot be read, so nothing leaves; mend or archive the ledger"
            ) from None
