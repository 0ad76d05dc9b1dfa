"""Personal models in a client's state folder, each under a digest of everything that determines it."""

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from knot_fed.errors import DamagedError, ModelError, writing_failed
from knot_fed.files import check_folder, write_file
from knot_fed.types import SoftLabels

PERSONAL, MODELS, HISTORY = "personal", "personal-models", "history.jsonl"
"""In a client's state folder: the newest personal model, all of them, and which run has made which."""
LONGEST_HISTORY = 10_000

logger = logging.getLogger("knot_fed")


def personal_digest(start: Sequence[str], soft_labels: SoftLabels, *read: object) -> str:
    """Return the digest of a personal model: of the consensus, and JSON values of all else that is read.

    `start` has the digest of the personal model that it starts from, empty if there is none, and one of the examples,
    the architecture and the settings of training.
    """
    digest = hashlib.sha256(json.dumps([[*start], *read], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(soft_labels, dtype=np.float32).tobytes())
    return digest.hexdigest()


class PersonalModels:
    """The personal models in a client's state folder, each under the digest of everything that determines it.

    `personal` is a link to the newest one, and a history tells which run made which, in which round. A caller holds the
    lock of the client's ledger while it enters one. `client` is the client's name in log lines.
    """

    def __init__(self, state: Path, *, client: str = "") -> None:
        self._client = client
        self.current = state / PERSONAL
        self._folder = state / MODELS

    def folder(self, digest: str) -> Path:
        """Return the folder of a personal model, which need not be there."""
        return self._folder / digest

    def before(self, run: str, round_number: int, *, resumed: str = "") -> str:
        """Return the digest of the run's newest personal model of an earlier round; empty if there is none.

        A missing or damaged one is left out, with a warning, and the one before it is returned. Asked again in the same
        round, it is the same. A resumed run has another number, and the models that were entered for its folder, whose
        name is `resumed`, are its own.
        """
        ours = [made for made in self._history() if (made.folder == resumed if resumed else made.run == run)]
        found = [made.digest for made in ours if made.round < round_number]
        return next((digest for digest in reversed(found) if self._is_whole(digest)), "")

    def enter(self, run: str, round_number: int, digest: str, *, folder: str) -> None:
        """Record that a run has made a kept model in a round, and let `personal` be that one; raises ModelError.

        `folder` is the name of the run's folder on the server.
        """
        entry = MadeModel(run, round_number, digest, folder)
        made = [*(other for other in self._history() if other != entry), entry]
        try:
            lines = "".join(json.dumps(asdict(each)) + "\n" for each in made[-LONGEST_HISTORY:])
            write_file(self._folder / HISTORY, lines.encode())
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".partial-") as beside:
                link = Path(beside) / PERSONAL
                link.symlink_to(self.folder(digest).relative_to(self.current.parent))
                link.rename(self.current)
        except OSError as error:
            raise ModelError(f"a personal model cannot be kept in state-dir: {writing_failed(error)}") from None

    def _is_whole(self, digest: str) -> bool:
        try:
            if self.folder(digest).is_dir():
                check_folder(self.folder(digest))
                return True
            found = f"{digest}: no such folder"
        except DamagedError as error:
            found = str(error)
        logger.warning(
            "%s: a personal model of an earlier round cannot be used (%s), so one before it is used, or none; to use"
            " it, restore it in the state folder from a backup", self._client, found,
        )  # fmt: skip
        return False

    def _history(self) -> list["MadeModel"]:
        """Read the history; a line that is damaged is left out, since its model can be made again."""
        try:
            lines = (self._folder / HISTORY).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return []
        return [entry for line in lines if (entry := MadeModel.from_json(line)) is not None]


@dataclass(frozen=True, slots=True)
class MadeModel:
    """A line of the history: the run and the round that made a personal model."""

    run: str
    round: int
    digest: str
    folder: str = ""

    @classmethod
    def from_json(cls, line: str) -> "MadeModel | None":
        """Parse a line; None for anything else."""
        try:
            made = TypeAdapter(cls).validate_json(line, strict=True)
        except ValidationError:
            return None
        return made if re.fullmatch(r"[0-9a-f]{64}", made.digest) else None
