"""Keep released noisy soft labels by text: drawn anew for the same text, the noise would average out."""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from knot_fed.errors import PrivacyError
from knot_fed.files import keep_folder, make_folder, open_privately
from knot_fed.mechanisms import Rows
from knot_fed.training.kept_teachers import check_kept_release
from knot_fed.types import SoftLabels, Text

TEXTS, ROWS = "texts.npy", "soft-labels.npy"
DIGEST_BYTES = 32


class NoisyRows:
    """The rows of one teacher under one noise; several processes may read and add rows.

    `folder` is named after everything that determines a row except its text, and holds a folder for each request with
    new texts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def count_new(self, texts: Sequence[Text]) -> int:
        """Count the texts without a row; raises PrivacyError as `rows` does."""
        known = self._known()
        return sum(_digest(text) not in known for text in texts)

    def rows(self, texts: Sequence[Text], draw: Rows, *, most_new: int) -> SoftLabels:
        """Return the rows of distinct texts, drawing at most `most_new` fresh ones, the number that was charged.

        Fresh rows are on disk before any of them is returned. Raises PrivacyError if a kept row is damaged, rows
        cannot be kept, or rows were removed since they were counted.
        """
        with _locked(self._folder):
            known = self._known()
            new = [text for text in texts if _digest(text) not in known]
            if len(new) > most_new:
                raise PrivacyError("kept noisy soft labels were removed while they were asked for; ask again")
            if new:
                drawn = draw(new)
                self._keep(new, drawn)
                known |= {_digest(text): row for text, row in zip(new, drawn, strict=True)}
        return np.stack([known[_digest(text)] for text in texts])

    def _known(self) -> dict[bytes, np.ndarray]:
        known: dict[bytes, np.ndarray] = {}
        for part in sorted(self._folder.glob("[0-9a-f]*")):
            check_kept_release(part)
            texts, rows = (np.load(part / file, allow_pickle=False) for file in (TEXTS, ROWS))
            known |= {text.tobytes(): row for text, row in zip(texts, rows, strict=True)}
        return known

    def _keep(self, texts: Sequence[Text], rows: SoftLabels) -> None:
        digests = b"".join(map(_digest, texts))

        def write(folder: Path) -> None:
            np.save(folder / TEXTS, np.frombuffer(digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES))
            np.save(folder / ROWS, rows)

        try:
            keep_folder(self._folder / hashlib.sha256(digests).hexdigest(), write)
        except OSError as error:
            reason = f"noisy soft labels cannot be kept ({error.strerror}), so none leave"
            raise PrivacyError(f"{reason}; make room on the client's disk") from None


def _digest(text: Text) -> bytes:
    return hashlib.sha256(json.dumps(text).encode()).digest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    make_folder(folder)
    with open(folder / ".lock", "w", opener=open_privately) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
