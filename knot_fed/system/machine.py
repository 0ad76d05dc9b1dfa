"""Resources of this machine: CPUs, GPUs, and folders with paths short enough for Unix sockets."""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Bytes in the path of a Unix socket, at most."""


def usable_cpus() -> int:
    """Count the CPUs that this process may use; all of them where processes cannot be pinned, e.g. on macOS."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def visible_gpus() -> int:
    """Count the GPUs that torch sees."""
    import torch  # slow to import, and needed only if GPUs are requested

    return torch.cuda.device_count()


def socket_folder(environment: Mapping[str, str], *, below: str) -> str | None:
    """Choose a folder in which a socket's path stays short enough.

    Parameters
    ----------
    environment
        `RAY_TMPDIR` and `TMPDIR` are tried first, then `/tmp` and `/var/tmp`.
    below
        Longest path of a socket below that folder.

    Returns
    -------
    folder
        The first writable one; None if there is none.

    Examples
    --------
    >>> socket_folder({"TMPDIR": "/tmp/" + "x" * 90}, below="ray/sockets/raylet")
    '/tmp'
    """
    named = [environment.get(name, "") for name in ("RAY_TMPDIR", "TMPDIR")]
    for folder in (*filter(None, named), "/tmp", "/var/tmp"):
        if len(os.fsencode(Path(folder) / below)) <= LONGEST_SOCKET and _writable(folder):
            return folder
    return None


def _writable(folder: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
