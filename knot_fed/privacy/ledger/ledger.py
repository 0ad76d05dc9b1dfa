"""The client's ledger of releases: on disk before anything is computed, never counting too little, damage showing."""

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
    """One release in the ledger: the number of its line, and all releases up to it."""

    line: int
    entries: Sequence[LedgerEntry]


class Ledger:
    """What one client has let out, in its state folder.

    Parameters
    ----------
    state
        The client's state folder; made at the first release.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._file = ChainedFile(state / "ledger.jsonl")

    @property
    def exists(self) -> bool:
        """Whether there is a ledger, or was one."""
        return self._file.exists

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other run of this node count or release meanwhile.

        Raises
        ------
        PolicyError
            If the state folder cannot be written.
        """
        with ExitStack() as held:
            try:
                held.enter_context(self._file.locked())
            except OSError as error:
                raise _unwritable(error) from None
            yield

    def entries(self) -> list[LedgerEntry]:
        """Read all entries but those that were taken back.

        Raises
        ------
        PolicyError
            If a line was changed or lost, since it may tell of any release.
        """
        try:
            lines = [LedgerEntry.from_json(body) for body in self._file.read()]
        except DamagedError as error:
            raise _damaged(str(error)) from None
        whole = [line for line in lines if line is not None]
        if len(whole) < len(lines):
            raise _damaged("a line of it is no entry")
        out = {line.takes_back for number, line in enumerate(whole, start=1) if line.takes_back < number}
        return [
            line
            for number, line in enumerate(whole, start=1)
            if not line.takes_back and (line.unknown or number not in out)
        ]

    def record(self, entry: LedgerEntry) -> int:
        """Write an entry down, under the lock; returns the number of its line when it is on disk.

        Raises
        ------
        PolicyError
            If the ledger is damaged, or cannot be written, such as on a full disk; it is then as it was before.
        """
        try:
            return self._file.append(entry.to_json())
        except DamagedError as error:
            raise _damaged(str(error)) from None
        except OSError as error:
            raise _unwritable(error) from None

    def charge(self, decide: Callable[[Sequence[LedgerEntry]], LedgerEntry]) -> Charge:
        """Write down a release before it is computed; returns when it is on disk.

        Parameters
        ----------
        decide
            Called with all earlier releases and what runs are bound to; returns the one to write, or raises
            PolicyError to refuse. No other process can write in between.

        Raises
        ------
        PolicyError
            If the release is refused, or as `entries` and `record` say; nothing is written then.
        """
        with self.locked():
            before = [
                entry
                for entry in self.entries()
                if entry.texts or entry.parameters or entry.unknown or entry.fingerprint
            ]
            entry = decide(before)
            return Charge(self.record(entry), [*before, entry])

    def take_back(self, charge: Charge) -> None:
        """Count a release as never made; only for one after which nothing was computed."""
        with self.locked():
            self.record(LedgerEntry(takes_back=charge.line))

    def released_in_life(self) -> float:
        """Count the texts answered so far, infinitely many where lines were lost; raises PolicyError as `entries`."""
        return texts_released(self.entries())

    def evaluated(self, run: str) -> tuple[float, float]:
        """Count the students measured in one run, and in life; raises PolicyError as `entries` does."""
        entries = self.entries()
        in_run, in_life = (
            math.inf if _incomplete(told) else float(sum(entry.evaluations for entry in told))
            for told in (of_run(entries, run), entries)
        )
        return in_run, in_life

    def transfer_set_of_run(self, run: str) -> str:
        """Return the fingerprint that a run is bound to, or nothing; raises PolicyError as `entries` does."""
        return next((entry.fingerprint for entry in self.entries() if entry.run == run and entry.fingerprint), "")

    def keep_keys(self, keys: TextKeys) -> None:
        """Keep the keys of a transfer set's texts once, under their digest.

        Raises
        ------
        PolicyError
            If they cannot be written.
        """
        digest = digest_of_keys(keys)
        try:
            if self._read_keys(digest) is None:
                write_file(make_folder(self._state / TEXTS) / digest, keys.tobytes())
        except OSError as error:
            raise _unwritable(error) from None

    def kept_keys(self, digest: str) -> TextKeys:
        """Return the keys of texts that an entry names by their digest; none for an empty one.

        Raises
        ------
        PolicyError
            If they were lost.
        """
        keys = self._read_keys(digest)
        if keys is None:
            raise _damaged("the keys of texts that it tells of are lost")
        return keys

    def check(self) -> None:
        """Refuse to continue where the ledger, its secret, or keys of texts that it tells of were changed or lost.

        Raises
        ------
        PolicyError
            With what is damaged.
        """
        for entry in self.entries():
            for digest in (entry.keys, entry.readings):
                self.kept_keys(digest)
        self.secret()

    def _read_keys(self, digest: str) -> TextKeys | None:
        if not digest:
            return np.empty((0, TEXT_KEY_BYTES), dtype=np.uint8)
        try:
            content = (self._state / TEXTS / digest).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest() != digest:
            return None
        return np.frombuffer(content, dtype=np.uint8).reshape(-1, TEXT_KEY_BYTES)

    def secret(self) -> bytes:
        """Return the secret of the state folder, by which the owner and no server chooses; made before anything leaves.

        Raises
        ------
        PolicyError
            If it was changed or lost, or its ledger was.
        """
        with self.locked():
            entries = self.entries()
            kept = self._read_secret()
            released = any(_tells(entry) for entry in entries) or (self._state / TEXTS).exists()
            if kept is None and not released:
                return self._new_secret()
            if kept is None or not self._is_ours(kept, entries):
                raise _damaged("the state folder's secret.key and ledger.jsonl do not belong together")
            return kept

    def recover(self) -> str:
        """Make a damaged ledger usable again, counting whatever was lost as the whole budget; returns what was done.

        Raises
        ------
        PolicyError
            If it cannot be written.
        """
        with self.locked():
            bodies, whole = self._file.salvage()
            read = [(body, entry) for body in bodies if (entry := LedgerEntry.from_json(body)) is not None]
            of_ours = self._is_ours(self._read_secret(), [entry for _, entry in read])
            known = [entry.without(self._lost_keys(entry)) for _, entry in read]
            lost = not whole or len(read) < len(bodies) or not of_ours or known != [entry for _, entry in read]
            kept = [
                entry.to_json() for entry in known if not (lost and entry.takes_back)
            ]  # line numbers may have moved
            try:
                aside = self._file.rewrite([*kept, *([LedgerEntry(unknown=True).to_json()] if lost else [])])
            except OSError as error:
                raise _unwritable(error) from None
            if not of_ours:
                self._new_secret()
        counted = "what was lost counts as the whole budget" if lost else "nothing was lost"
        return f"{len(kept)} lines kept, {counted}" + (f"; the old file is {aside.name}" if aside else "")

    def _lost_keys(self, entry: LedgerEntry) -> list[str]:
        return [digest for digest in (entry.keys, entry.readings) if self._read_keys(digest) is None]

    @staticmethod
    def _is_ours(secret: bytes | None, entries: Sequence[LedgerEntry]) -> bool:
        """Tell whether the secret is the one that the ledger was last bound to."""
        bound = [entry.secret for entry in entries if entry.secret]
        return secret is not None and bool(bound) and hashlib.sha256(secret).hexdigest() == bound[-1]

    def _read_secret(self) -> bytes | None:
        try:
            return (self._state / SECRET).read_bytes()
        except OSError:
            return None

    def _new_secret(self) -> bytes:
        """Draw a secret, after the ledger holds its digest."""
        secret = NoiseSource().bytes(KEY_BYTES)
        self.record(LedgerEntry(secret=hashlib.sha256(secret).hexdigest()))
        try:
            write_file(self._state / SECRET, secret)
        except OSError as error:
            raise _unwritable(error) from None
        return secret


def digest_of_keys(keys: TextKeys) -> str:
    """Return what entries name the keys of a transfer set's texts by."""
    return hashlib.sha256(keys.tobytes()).hexdigest()


def texts_released(entries: Sequence[LedgerEntry]) -> float:
    """Count the texts that entries tell of; infinitely many where lines were lost."""
    return math.inf if _incomplete(entries) else float(sum(entry.texts for entry in entries))


def _tells(entry: LedgerEntry) -> bool:
    return bool(entry.texts or entry.evaluations or entry.parameters or entry.unknown)


def _incomplete(entries: Sequence[LedgerEntry]) -> bool:
    return any(entry.unknown for entry in entries)


def _damaged(reason: str) -> PolicyError:
    return PolicyError(
        f"the ledger is damaged ({reason}) and a lost line may tell of any release, so nothing leaves; restore the"
        " state folder from a backup made after the last release, or call knot-fed privacy recover on it",
        refusal="this client's ledger is damaged, so nothing leaves; its owner finds the remedy in its own log",
    )


def _unwritable(error: OSError) -> PolicyError:
    return PolicyError(
        f"the ledger cannot be written ({error.strerror}), so nothing leaves and nothing is charged; make room on the"
        " disk, or give the state folder to the user that runs the client",
        refusal="this client's ledger cannot be written, so nothing leaves; its owner makes room on its disk",
    )
