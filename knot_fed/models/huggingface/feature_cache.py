"""A folder of features of a frozen encoder, so that no text is encoded twice; one file per list with new texts."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from knot_fed.files import make_folder, write_file

Features = Float[np.ndarray, "examples width"]
ComputeFeatures = Callable[[list[str]], Features]
Keys = UInt8[np.ndarray, "examples bytes"]
Strings = Shaped[np.ndarray, "examples"]
"""Keys as byte strings, which can be sorted; all have one length, so that zeros at the end do not matter."""
KEY_BYTES = 16

logger = logging.getLogger("knot_fed")


class FeatureCache:
    """The features of one encoder in a folder, which several processes may read and write at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def features(self, texts: list[str], compute: ComputeFeatures) -> Features:
        """Return the features of one or more texts; `compute` returns float32 features for those not yet stored."""
        file = self._folder / f"{hashlib.sha256(json.dumps(texts).encode()).hexdigest()}.safetensors"
        kept, keys = _read(file), _keys(texts)
        if kept is not None and np.array_equal(kept[0], keys):
            return kept[1]
        known = self._known(keys)
        missing = {key.tobytes(): text for key, text in zip(keys, texts, strict=True) if key.tobytes() not in known}
        known |= dict(zip(missing, compute(list(missing.values())), strict=True)) if missing else {}
        features = np.stack([known[key.tobytes()] for key in keys])
        if missing:
            make_folder(self._folder)
            digest = _digest(keys, features, folder=self._folder)
            write_file(file, save({"keys": keys, "features": features, "digest": digest}))
        return features

    def _known(self, keys: Keys) -> dict[bytes, Float[np.ndarray, "width"]]:
        """Read files until the features of all keys are found; of the others only their keys are read."""
        known: dict[bytes, Float[np.ndarray, width]] = {}
        wanted = np.unique(_as_strings(keys))
        for file in sorted(self._folder.glob("*.safetensors")):
            if not np.isin(_keys_of(file), wanted).any() or (kept := _read(file)) is None:
                continue
            found = np.isin(_as_strings(kept[0]), wanted)
            known |= {key.tobytes(): row for key, row in zip(kept[0][found], kept[1][found], strict=True)}
            wanted = wanted[~np.isin(wanted, _as_strings(kept[0]))]
            if not len(wanted):
                break
        return known


def _keys_of(file: Path) -> Strings:
    """Read the keys alone, unchecked; none of a damaged file, which is removed."""
    try:
        with safe_open(file, framework="numpy") as opened:
            return _as_strings(opened.get_tensor("keys"))
    except (SafetensorError, OSError):
        _read(file)
        return _as_strings(np.zeros((0, KEY_BYTES), np.uint8))


def _as_strings(keys: Keys) -> Strings:
    return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}").ravel()


def _keys(texts: list[str]) -> Keys:
    digests = [hashlib.sha256(text.encode()).digest()[:KEY_BYTES] for text in texts]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(texts), KEY_BYTES)


def _read(file: Path) -> tuple[Keys, Features] | None:
    """Read one file; a damaged one is removed, so that it is computed again."""
    if not file.is_file():
        return None
    try:
        tensors = load(file.read_bytes())
        keys, features, digest = (tensors[name] for name in ("keys", "features", "digest"))
        if np.array_equal(digest, _digest(keys, features, folder=file.parent)):
            return keys, features
    except (SafetensorError, KeyError):
        pass
    logger.warning("%s: kept features are damaged; they are computed again", file.name[:12])
    file.unlink(missing_ok=True)
    return None


def _digest(keys: Keys, features: Features, *, folder: Path) -> UInt8[np.ndarray, "length"]:
    """Return the digest of a file's content and of its folder, which is named after the encoder."""
    content = hashlib.sha256(folder.name.encode() + keys.tobytes() + features.tobytes()).digest()
    return np.frombuffer(content, dtype=np.uint8)
