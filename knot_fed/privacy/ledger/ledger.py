"""The client's ledger of releases: written before anything is computed, never counting too little, detecting damage."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knot_fed.data.transfer_set import TEXT_KEY_BYTES, TextKeys
from knot_fed.errors import DamagedError, PolicyError
from knot_fed.files import make_folder, write_file
from knot_fed.privacy.ledger.chained_file import ChainedFile
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.ledger.spending import of_run
from knot_fed.privacy.noise import KEY_BYTES, NoiseSource

SECRET, TEXTS = "secret.key", "ledger-texts"


@dataclass(frozen=True, slots=True)
class Charge:
    """One release in the ledger: the number of its line, and all releases up to and including it."""

    line: int
    entries: Sequence[LedgerEntry]


class Ledger:
    """Releases of one client, in its state folder, which the first release creates.

    Methods raise PolicyError if the ledger is damaged, since a lost line may record any release, or cannot be written,
    e.g. because the disk is full.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._file = ChainedFile(state / "ledger.jsonl")

    @property
    def exists(self) -> bool:
        """Whether there is a ledger, or a trace of one."""
        return self._file.exists

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other runs of this node."""
        with ExitStack() as stack:
            with _writing():
                stack.enter_context(self._file.locked())
            yield

    def entries(self) -> list[LedgerEntry]:
        """Return all entries except those that were taken back."""
        try:
            lines = [LedgerEntry.from_json(body) for body in self._file.read()]
        except DamagedError as error:
            raise _damaged(str(error)) from None
        whole = [line for line in lines if line is not None]
        if len(whole) < len(lines):
            raise _damaged("one of its lines is not an entry")
        out = {line.takes_back for number, line in enumerate(whole, start=1) if line.takes_back < number}
        return [
            line
            for number, line in enumerate(whole, start=1)
            if not line.takes_back and (line.unknown or number not in out)
        ]

    def record(self, entry: LedgerEntry) -> int:
        """Write an entry under the lock, and return its line number once it is synced; on failure nothing changes."""
        with _writing():
            return self._file.append(entry.to_json())

    def charge(self, decide: Callable[[Sequence[LedgerEntry]], LedgerEntry]) -> Charge:
        """Write a release before it is computed.

        Parameters
        ----------
        decide
            Maps all earlier releases and bindings of runs to the entry to write, or raises PolicyError to refuse.
            No other process can write in between.
        """
        with self.locked():
            entries = self.entries()
            before = [past for past in entries if past.texts or past.parameters or past.unknown or past.fingerprint]
            entry = decide(before)
            return Charge(self.record(entry), [*before, entry])

    def take_back(self, charge: Charge) -> None:
        """Cancel a release after which nothing was computed."""
        with self.locked():
            self.record(LedgerEntry(takes_back=charge.line))

    def released_in_life(self) -> float:
        """Return the number of texts answered so far; infinite if lines were lost."""
        return texts_released(self.entries())

    def evaluated(self, run: str) -> tuple[float, float]:
        """Return the number of students evaluated in one run and in life; infinite if lines were lost."""
        entries = self.entries()
        return _total(of_run(entries, run), "evaluations"), _total(entries, "evaluations")

    def transfer_set_of_run(self, run: str) -> str:
        """Return the fingerprint that a run is bound to, or an empty string."""
        return next((entry.fingerprint for entry in self.entries() if entry.run == run and entry.fingerprint), "")

    def keep_keys(self, keys: TextKeys) -> None:
        """Store the keys of a transfer set's texts under their digest."""
        digest = digest_of_keys(keys)
        if self._read_keys(digest) is None:
            with _writing():
                write_file(make_folder(self._state / TEXTS) / digest, keys.tobytes())

    def kept_keys(self, digest: str) -> TextKeys:
        """Return stored keys by their digest; no keys for an empty digest."""
        keys = self._read_keys(digest)
        if keys is None:
            raise _damaged("the keys of its texts are lost")
        return keys

    def check(self) -> None:
        """Raise PolicyError if the ledger, its secret, or keys of its texts were changed or lost."""
        for entry in self.entries():
            for digest in (entry.keys, entry.readings):
                self.kept_keys(digest)
        self.secret()

    def _read_keys(self, digest: str) -> TextKeys | None:
        if not digest:
            return np.empty((0, TEXT_KEY_BYTES), dtype=np.uint8)
        content = _read(self._state / TEXTS / digest)
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            return None
        return np.frombuffer(content, dtype=np.uint8).reshape(-1, TEXT_KEY_BYTES)

    def secret(self) -> bytes:
        """Return the secret of the state folder, created before anything leaves; no server can predict its choices."""
        with self.locked():
            entries = self.entries()
            kept = _read(self._state / SECRET)
            released = (self._state / TEXTS).exists() or any(
                entry.texts or entry.evaluations or entry.parameters or entry.unknown for entry in entries
            )
            if kept is None and not released:
                return self._new_secret()
            if kept is None or not self._is_ours(kept, entries):
                raise _damaged("the state folder's secret.key and ledger.jsonl do not belong together")
            return kept

    def recover(self) -> str:
        """Make a damaged ledger usable again, counting lost lines as the whole budget; return what was done."""
        with self.locked():
            bodies, whole = self._file.salvage()
            read = [entry for body in bodies if (entry := LedgerEntry.from_json(body)) is not None]
            of_ours = self._is_ours(_read(self._state / SECRET), read)
            known = [
                entry.without([digest for digest in (entry.keys, entry.readings) if self._read_keys(digest) is None])
                for entry in read
            ]
            lost = not whole or len(read) < len(bodies) or not of_ours or known != read
            # Line numbers may have changed, so that lines that take others back no longer apply.
            kept = [entry.to_json() for entry in known if not (lost and entry.takes_back)]
            with _writing():
                aside = self._file.rewrite([*kept, *([LedgerEntry(unknown=True).to_json()] if lost else [])])
            if not of_ours:
                self._new_secret()
        counted = "what was lost counts as the whole budget" if lost else "nothing was lost"
        return f"{len(kept)} lines kept, {counted}" + (f"; the old file is {aside.name}" if aside else "")

    @staticmethod
    def _is_ours(secret: bytes | None, entries: Sequence[LedgerEntry]) -> bool:
        """Return whether the ledger was last bound to this secret."""
        bound = [entry.secret for entry in entries if entry.secret]
        return secret is not None and bool(bound) and hashlib.sha256(secret).hexdigest() == bound[-1]

    def _new_secret(self) -> bytes:
        """Draw a secret, and store it after the ledger holds its digest."""
        secret = NoiseSource().bytes(KEY_BYTES)
        self.record(LedgerEntry(secret=hashlib.sha256(secret).hexdigest()))
        with _writing():
            write_file(self._state / SECRET, secret)
        return secret


def digest_of_keys(keys: TextKeys) -> str:
    """Return the digest by which entries refer to the keys of a transfer set's texts."""
    return hashlib.sha256(keys.tobytes()).hexdigest()


def texts_released(entries: Sequence[LedgerEntry]) -> float:
    """Return the number of texts in these entries; infinite if lines were lost."""
    return _total(entries, "texts")


def _total(entries: Sequence[LedgerEntry], field: str) -> float:
    return math.inf if any(entry.unknown for entry in entries) else float(sum(getattr(e, field) for e in entries))


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


@contextmanager
def _writing() -> Iterator[None]:
    """Raise PolicyError for damage and for write errors."""
    try:
        yield
    except DamagedError as error:
        raise _damaged(str(error)) from None
    except OSError as error:
        raise PolicyError(
            f"the ledger cannot be written ({error.strerror}), so nothing leaves and nothing is charged; make room on"
            " the disk, or give the state folder to the user that runs the client",
            refusal="this client's ledger cannot be written, so nothing leaves; its owner makes room on its disk",
        ) from None


def _damaged(reason: str) -> PolicyError:
    return PolicyError(
        f"the ledger is damaged ({reason}) and a lost line may record any release, so nothing leaves; restore the"
        " state folder from a backup made after the last release, or call knot-fed privacy recover on it",
        refusal="this client's ledger is damaged, so nothing leaves; its owner finds the remedy in its own log",
    )
