"""Files of arrays and facts in a run folder: safetensors with a digest, so that damage is noticed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from knot_fed.errors import DamagedError

FACTS = "facts"
DIGEST = "digest"


def pack_file(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of a file with these arrays, and with facts that JSON represents exactly."""
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    text = json.dumps(facts)
    return save(contiguous, {FACTS: text, DIGEST: _digest(text, contiguous)})


def read_file(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the facts and arrays that `pack_file` packed; raises DamagedError if the file is missing or damaged."""
    try:
        with safe_open(file, framework="numpy") as opened:
            text, digest = opened.metadata()[FACTS], opened.metadata()[DIGEST]
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if digest != _digest(text, arrays):
            raise DamagedError("its digest is another one")
        return json.loads(text), arrays
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"it cannot be read ({type(error).__name__})") from None


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
