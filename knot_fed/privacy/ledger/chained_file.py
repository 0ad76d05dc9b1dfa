"""A file of lines that is only ever appended to, in which damage shows: each line carries a digest of all before it.

Beside it stands its head: how many lines there are, the last digest, and the last line once more. A line is written and
synced first and the head after it, so that a line beyond the head was never promised to anybody, unless it is whole.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from knot_fed.errors import DamagedError
from knot_fed.files import make_folder, open_privately, sync_folder, write_file

FIRST = hashlib.sha256(b"knot_fed ledger 2").hexdigest()
_LINE = re.compile(rb'\{"chain": "([0-9a-f]{64})", (.*)\}')

logger = logging.getLogger("knot_fed")


class Head(BaseModel):
    """How many lines there are, the digest of all of them, and the last one's fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lines: Annotated[int, Field(ge=0)]
    chain: str
    last: str


class ChainedFile:
    """JSON lines, chained; each holds `chain` and the fields that were given.

    Parameters
    ----------
    path
        The file; made with its folder when the first line is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head_path = path.with_suffix(".head")

    @property
    def exists(self) -> bool:
        """Whether there is a file, or a head that says there was one."""
        return self.path.exists() or self._head_path.exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from reading and writing meanwhile.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        make_folder(self.path.parent)
        with open(self.path.with_suffix(".lock"), "w", opener=open_privately) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self) -> list[str]:
        """Return the fields of each line as JSON, in order.

        A last line that was cut short and that the head does not know was never promised; it is left out.

        Raises
        ------
        DamagedError
            If a line was changed or lost, or the file or its head is gone.
        """
        return self._checked()[0]

    def append(self, body: str) -> int:
        """Write one line under the lock, and return its number, from 1, when it is on disk.

        Parameters
        ----------
        body
            Its fields, a JSON object with at least one field.

        Raises
        ------
        DamagedError
            As `read`.
        OSError
            If the disk is full, for example: the file is cut back to what it was.
        """
        bodies, digests = self._checked()
        digest = _next_digest(digests[-1], body)
        if not self._head_path.exists():
            self._write_head(Head(lines=0, chain=FIRST, last=""))
        length = self._cut_tail()
        try:
            self._extend(_line(digest, body))
            self._write_head(Head(lines=len(bodies) + 1, chain=digest, last=body))
        except OSError:
            with suppress(OSError):
                os.truncate(self.path, length)
            raise
        return len(bodies) + 1

    def salvage(self) -> tuple[list[str], bool]:
        """Return the fields of all lines that can be read, damaged or not, and whether that is all that was written."""
        lines, _ = self._lines()
        bodies, digests = _verified(lines)
        head = self._head()
        if head is not None and head.lines == len(bodies) + 1 and _next_digest(digests[-1], head.last) == head.chain:
            return [*bodies, head.last], True
        whole = head is not None and len(bodies) == len(lines) >= head.lines and digests[head.lines] == head.chain
        rest = [match[2].decode(errors="replace") for line in lines[len(bodies) :] if (match := _LINE.fullmatch(line))]
        return [*bodies, *("{" + fields + "}" for fields in rest)], whole

    def rewrite(self, bodies: list[str]) -> Path | None:
        """Put a file of these lines in the place of the old one, which is kept beside it; returns where.

        Raises
        ------
        OSError
            If the disk is full, for example; the old file stays.
        """
        aside = None
        digest, content = FIRST, b""
        for body in bodies:
            digest = _next_digest(digest, body)
            content += _line(digest, body)
        if self.path.exists():
            numbers = (self.path.with_suffix(f".damaged-{number}") for number in range(1, 10**6))
            aside = next(place for place in numbers if not place.exists())
            write_file(aside, self.path.read_bytes())
        write_file(self.path, content)
        self._write_head(Head(lines=len(bodies), chain=digest, last=bodies[-1] if bodies else ""))
        return aside

    def _checked(self) -> tuple[list[str], list[str]]:
        """Return the fields of each line, and the digest before the first and after each."""
        lines, _ = self._lines()
        bodies, digests = _verified(lines)
        head = self._head()
        if not self.exists:
            return bodies, digests
        if head is None:
            raise DamagedError(f"{self._head_path.name} is gone or cannot be read")
        if len(bodies) < len(lines):
            raise DamagedError(f"line {len(bodies) + 1} of {self.path.name} is not as it was written")
        if len(bodies) < head.lines:
            raise DamagedError(f"{self.path.name} has {len(bodies)} whole lines and had {head.lines}")
        if digests[head.lines] != head.chain:
            raise DamagedError(f"{self.path.name} is not the file that {self._head_path.name} was written for")
        return bodies, digests

    def _lines(self) -> tuple[list[bytes], int]:
        """Return the whole lines without their ends, and the bytes that they take."""
        content = self.path.read_bytes() if self.path.exists() else b""
        length = content.rfind(b"\n") + 1
        return content[:length].split(b"\n")[:-1], length

    def _cut_tail(self) -> int:
        """Cut off a last line that was never promised, and return the length of the file."""
        _, length = self._lines()
        if self.path.exists() and self.path.stat().st_size > length:
            logger.warning(
                "%s: cut off a last line that was never whole; nothing had been promised by it", self.path.name
            )
            os.truncate(self.path, length)
        return length

    def _extend(self, line: bytes) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            written = file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        sync_folder(self.path.parent)

    def _head(self) -> Head | None:
        try:
            return Head.model_validate_json(self._head_path.read_bytes())
        except (OSError, ValidationError):
            return None

    def _write_head(self, head: Head) -> None:
        write_file(self._head_path, head.model_dump_json().encode())


def _line(digest: str, body: str) -> bytes:
    return f'{{"chain": "{digest}", {body[1:]}\n'.encode()


def _next_digest(before: str, body: str) -> str:
    return hashlib.sha256(f"{before} {body}".encode()).hexdigest()


def _verified(lines: list[bytes]) -> tuple[list[str], list[str]]:
    """Return the fields of all lines before the first that does not continue the chain, and the digest after each."""
    bodies, digests = list[str](), [FIRST]
    for line in lines:
        match = _LINE.fullmatch(line)
        body = "{" + match[2].decode(errors="replace") + "}" if match else ""
        if match is None or _next_digest(digests[-1], body) != match[1].decode():
            break
        bodies.append(body)
        digests.append(match[1].decode())
    return bodies, digests
