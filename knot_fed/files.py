"""Files and folders: private whatever the umask, written atomically, and verified by digest when read again."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from knot_fed.errors import ConfigError, DamagedError, writing_failed

DIGESTS = "SHA256SUMS"
"""In a stored folder: its identity, then one line for each other file in the format of sha256sum."""
PRIVATE, PUBLIC = 0o700, 0o755
"""Modes of folders."""
OWNERS, SHARED = 0o600, 0o666
"""Modes of files: for their owner only, or as the umask allows."""
_FOLDERS = re.compile(r"(?<![\w.…])/(?:[^/,;]+/)+(?=[^/,;]+/[^/,;]+)")


def make_folder(path: Path, *, mode: int = PRIVATE) -> Path:
    """Create a folder and its missing parents with at most this mode.

    An existing folder keeps its mode: it may be a container's volume, which belongs to another user.
    """
    for folder in reversed([path, *path.parents]):
        if not folder.is_dir():
            folder.mkdir(mode=mode, exist_ok=True)
    return path


def check_writable(path: Path, *, key: str) -> None:
    """Check that a folder, which need not exist, can be created and written to; leaves nothing behind.

    Parameters
    ----------
    path
        The folder.
    key
        Its configuration key, for the error.

    Raises
    ------
    ConfigError
        If it is not writable.
    """
    place = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    try:
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise ConfigError(
            f"{key}: {place} cannot be written: {writing_failed(error)}, or give another folder"
        ) from None


def open_privately(path: str, flags: int) -> int:
    """Open a file, a new one with owner-only permissions; an `opener` for `open`."""
    return os.open(path, flags, OWNERS)


def write_file(path: Path, content: bytes, *, mode: int = OWNERS) -> None:
    """Write or replace a file atomically, and sync it to disk.

    Parameters
    ----------
    path
        The file.
    content
        Its whole content.
    mode
        `OWNERS` or `SHARED`; the umask applies.

    Raises
    ------
    OSError
        E.g. if the disk is full; an earlier file is left unchanged.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        draft = Path(folder) / path.name
        with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Sync a folder's list of files to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_folder(path: Path, write: Callable[[Path], None]) -> bool:
    """Create a folder atomically, with the digests of its files.

    Parameters
    ----------
    path
        The folder.
    write
        Writes the files into the folder passed to it.

    Returns
    -------
    created
        False if another process has created the folder in the meantime; its folder then stays.

    Raises
    ------
    OSError
        E.g. if the disk is full; nothing is left behind.
    """
    make_folder(path.parent)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=".partial-"))
    try:
        write(partial)
        lines = [f"{file_digest(file)}  {file.relative_to(partial)}\n" for file in _files(partial)]
        write_file(partial / DIGESTS, "".join([f"{_place(path)}\n", *lines]).encode())
        made = _rename_unless_there(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(path.parent)
    return made


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Create a folder, or replace one, as a whole: it is written beside and then renamed.

    Parameters
    ----------
    path
        The folder; whether it may be replaced is the caller's to check.
    write
        Writes the files into the folder passed to it.

    Raises
    ------
    OSError
        E.g. if the disk is full; an earlier folder is left unchanged.
    """
    make_folder(path.parent, mode=PUBLIC)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as beside:
        draft, before = Path(beside) / "new", Path(beside) / "before"
        draft.mkdir()
        write(draft)
        if path.is_dir():
            path.rename(before)
        try:
            draft.rename(path)
        except OSError:
            if before.is_dir():
                before.rename(path)
            raise
    sync_folder(path.parent)


def check_folder(path: Path) -> None:
    """Verify a stored folder against its digests.

    Raises
    ------
    DamagedError
        If a file is missing, added or changed, or the folder was moved from another place.
    """
    try:
        place, *lines = (path / DIGESTS).read_text(encoding="utf-8").splitlines() or [""]
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        found = {str(file.relative_to(path)): file_digest(file) for file in _files(path)}
    except (OSError, UnicodeDecodeError):
        raise DamagedError(f"{path.name}: has no readable {DIGESTS}, so that damage could not be seen") from None
    if place != _place(path):
        raise DamagedError(f"{path.name}: was not kept under this name")
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise DamagedError(f"{path.name}: {wrong[0]} is not as it was written")


def _place(path: Path) -> str:
    """Return the line that binds a folder to its own name and its parent's; a comment to sha256sum."""
    return f"# {path.parent.name}/{path.name}"


def _rename_unless_there(partial: Path, path: Path) -> bool:
    try:
        partial.rename(path)
    except OSError:
        if not path.is_dir():
            raise
        return False
    return True


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != DIGESTS)


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def shorten_paths(text: str) -> str:
    """Shorten absolute paths to their last two names.

    Examples
    --------
    >>> shorten_paths("hf:/opt/models/mini/v2, hf:org/name")
    'hf:…/mini/v2, hf:org/name'
    """
    return _FOLDERS.sub("…/", text)
