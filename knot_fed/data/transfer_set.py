"""The transfer set: ordered public texts that every teacher labels, known to both sides by a fingerprint."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from knot_fed.data.files import BUILTIN, errors_about, read_columns, short_name
from knot_fed.data.private import Columns, limited_rows, texts_of
from knot_fed.data.reviews import builtin_texts
from knot_fed.errors import DataError
from knot_fed.folders import make_folder
from knot_fed.types import Text


@dataclass(frozen=True)
class TransferSet:
    """Unlabelled texts in an order that all sides share.

    Parameters
    ----------
    texts
        One text or one pair for each row; all of one kind.

    Examples
    --------
    >>> TransferSet(("a", "b", "c")).slice(1, 2)
    range(0, 1)
    """

    texts: tuple[Text, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def paired(self) -> bool:
        """Whether each row is a pair of texts."""
        return bool(self.texts) and not isinstance(self.texts[0], str)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the texts and their order, in hexadecimal."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(json.dumps(text, ensure_ascii=True).encode() + b"\n")
        return digest.hexdigest()

    def slice(self, round_number: int, rounds: int) -> range:
        """Return the row positions of one round; the rounds cover every row once, in near-equal slices.

        Parameters
        ----------
        round_number
            From 1 to `rounds`.
        rounds
            Number of slices.

        Raises
        ------
        DataError
            If there are more rounds than texts.
        """
        if rounds > len(self):
            raise DataError(f"{len(self)} transfer texts for {rounds} rounds; lower rounds or give more texts")
        return range(len(self) * (round_number - 1) // rounds, len(self) * round_number // rounds)


def keep_transfer_set(transfer: TransferSet, file: Path) -> None:
    """Keep the texts that a server sent, in the place of those kept before, so that a restart loses nothing."""
    make_folder(file.parent)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as partial:
        json.dump(transfer.texts, partial)
    Path(partial.name).rename(file)


def kept_transfer_set(file: Path, *, fingerprint: str) -> TransferSet | None:
    """Read the kept texts; None where those of this fingerprint are not kept whole."""
    try:
        texts = json.loads(file.read_text(encoding="utf-8"))
        transfer = TransferSet(tuple(text if isinstance(text, str) else (text[0], text[1]) for text in texts))
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return transfer if transfer.fingerprint == fingerprint else None


@errors_about("the client's copy of the transfer set")
def read_transfer_set(path: str | Path, *, columns: Columns, limit: int = 0) -> TransferSet:
    """Read the texts of a file, whatever their split; labels in the file are never read.

    Parameters
    ----------
    path, columns
        As in `read_labelled_texts`.
    limit
        Texts to keep at most, as `limited_rows` draws them; 0: all.

    Raises
    ------
    DataError
        If the file is missing, empty, not UTF-8, without the text column, or has rows without text.
    """
    path = str(path)
    if path.startswith(BUILTIN):
        return TransferSet(builtin_texts(path.removeprefix(BUILTIN)))
    table = read_columns(path, set(columns.of_text))
    texts = texts_of(table, columns, name=short_name(path))
    return TransferSet(tuple(texts[row] for row in limited_rows(len(texts), limit)))
