"""What this machine has: CPUs, GPUs, and folders with names short enough for Unix sockets."""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Bytes in the name of a Unix socket, by what the kernels allow."""


def usable_cpus() -> int:
    """Count the CPUs that this process may use; all of the machine where no process is pinned, such as on macOS."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def visible_gpus() -> int:
    """Count the GPUs that torch sees."""
    import torch  # slow to load, and needed only where a share of a GPU is asked for

    return torch.cuda.device_count()


def socket_folder(environment: Mapping[str, str], *, below: str) -> str | None:
    """Choose a folder in which a socket's name stays short enough.

    Parameters
    ----------
    environment
        Its `RAY_TMPDIR` and `TMPDIR` come first, then this system's `/tmp`.
    below
        Path of the socket below that folder, as long as it may get.

    Returns
    -------
    folder
        The first one in which files can be made; None: there is none.

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
