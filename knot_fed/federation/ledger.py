"""The client's ledger of releases: append-only, on disk before anything leaves, and never counting too little."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knot_fed.errors import PolicyError


class Ledger:
    """JSON lines, one for each release.

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
        return sum(texts for _, texts in self._entries())

    def released_in_run(self, run: str) -> int:
        """Count the texts answered in one run; raises PolicyError as `released_in_life` does."""
        return sum(texts for entry_run, texts in self._entries() if entry_run == run)

    def record(self, *, run: str, round_number: int, texts: int) -> None:
        """Write down a release before it leaves; returns when it is on disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": run, "round": round_number, "texts": texts}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _entries(self) -> list[tuple[str, int]]:
        if not self._path.exists():
            return []
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
            return [(str(entry["run"]), int(entry["texts"])) for entry in map(json.loads, lines)]
        except (OSError, ValueError, KeyError, TypeError):
            raise PolicyError(
                f"{self._path.name}: a line of the ledger cannot be read, so nothing leaves; mend or archive the ledger"
            ) from None
