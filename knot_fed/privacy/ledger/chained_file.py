"""An append-only file of lines that detects damage: each line carries a digest of all lines before it.

The head beside it holds the number of lines, the last digest, and the last line again. A line is written and synced
before the head, so that an incomplete line beyond the head was never confirmed to anybody.
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
    """The number of lines, the digest of all of them, and the fields of the last one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lines: Annotated[int, Field(ge=0)]
    chain: str
    last: str


class ChainedFile:
    """Chained JSON lines, each with `chain` and the given fields; the first line creates the file and its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head_path = path.with_suffix(".head")

    @property
    def exists(self) -> bool:
        """Whether the file or its head exists."""
        return self.path.exists() or self._head_path.exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other processes; raises OSError if the folder is not writable."""
        make_folder(self.path.parent)
        with open(self.path.with_suffix(".lock"), "w", opener=open_privately) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self) -> list[str]:
        """Return the fields of each line as JSON, without an incomplete last line that the head does not count.

        Raises DamagedError if a line was changed or lost, or the file or its head is missing.
        """
        return self._checked()[0]

    def append(self, body: str) -> int:
        """Write one non-empty JSON object under the lock; return the number of its line, from 1, once it is synced.

        Raises DamagedError as in `read`, and OSError, e.g. if the disk is full; the file is then as it was.
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
        """Return the fields of all readable lines, damaged or not, and whether that is everything that was written."""
        lines, _ = self._lines()
        bodies, digests = _verified(lines)
        head = self._head()
        if head is not None and head.lines == len(bodies) + 1 and _next_digest(digests[-1], head.last) == head.chain:
            return [*bodies, head.last], True
        whole = head is not None and len(bodies) == len(lines) >= head.lines and digests[head.lines] == head.chain
        rest = [match[2].decode(errors="replace") for line in lines[len(bodies) :] if (match := _LINE.fullmatch(line))]
        return [*bodies, *("{" + fields + "}" for fields in rest)], whole

    def rewrite(self, bodies: list[str]) -> Path | None:
        """Replace the file by these lines, and return where the old one is kept; an OSError leaves it as it was."""
        aside, digest, content = None, FIRST, b""
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
        """Return the complete lines without line ends, and their length in bytes."""
        content = self.path.read_bytes() if self.path.exists() else b""
        length = content.rfind(b"\n") + 1
        return content[:length].split(b"\n")[:-1], length

    def _cut_tail(self) -> int:
        """Truncate an incomplete last line, and return the length of the file."""
        _, length = self._lines()
        if self.path.exists() and self.path.stat().st_size > length:
            logger.warning("%s: removed an incomplete last line, which was never confirmed", self.path.name)
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
    """Return the fields of all lines before the first that breaks the chain, and the digest after each."""
    bodies, digests = list[str](), [FIRST]
    for line in lines:
        match = _LINE.fullmatch(line)
        body = "{" + match[2].decode(errors="replace") + "}" if match else ""
        if match is None or _next_digest(digests[-1], body) != match[1].decode():
            break
        bodies.append(body)
        digests.append(match[1].decode())
    return bodies, digests
