"""Folders and files that no other user of the machine may write to, whatever the umask says."""

import os
from pathlib import Path

PRIVATE, PUBLIC = 0o700, 0o755


def make_folder(path: Path, *, mode: int = PRIVATE) -> None:
    """Make a folder and the missing ones above it with this mode at most; one that is there stays as it is.

    A folder that is there may be a container's volume, which belongs to another user.
    """
    for folder in reversed([path, *path.parents]):
        if not folder.is_dir():
            folder.mkdir(mode=mode, exist_ok=True)


def open_privately(path: str, flags: int) -> int:
    """Open a file that only its owner may read, if it is made anew; an `opener` for `open`."""
    return os.open(path, flags, 0o600)
