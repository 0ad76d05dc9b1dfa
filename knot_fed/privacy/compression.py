"""Compressed soft labels. None of these schemes is a privacy mechanism: they guarantee nothing."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from knot_fed.errors import SoftLabelsError
from knot_fed.types import SoftLabels

VALUES, PLACES = "soft-labels", "kept-labels"
STEPS = 255
MOST_OFF = {"none": 1e-4, "float16": 5e-3, "uint8": 1e-6}
"""How far the sum of a row on the wire may be from 1."""
DTYPES = {"none": np.float32, "float16": np.float16, "uint8": np.uint8}


def layout(scheme: str, *, examples: int, classes: int, top_k: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape and dtype of each array on the wire."""
    kept = (examples, min(top_k, classes))
    places: np.dtype[Any] = np.dtype(np.uint16)
    if scheme == "hard":
        return {VALUES: ((examples,), places)}
    if scheme == "top-k":
        return {VALUES: (kept, np.dtype(np.float16)), PLACES: (kept, places)}
    return {VALUES: ((examples, classes), np.dtype(DTYPES[scheme]))}


def compress(soft_labels: SoftLabels, scheme: str, *, top_k: int) -> dict[str, np.ndarray]:
    """Return the arrays to send for one distribution per text.

    Parameters
    ----------
    scheme
        `none`: float32. `float16`. `uint8`: counts out of 255, largest remainders rounded up. `top-k`: the `top_k`
        largest entries as float16, and their labels. `hard`: the label of the largest entry.
    """
    if scheme == "hard":
        return {VALUES: soft_labels.argmax(axis=1).astype(np.uint16)}
    if scheme == "top-k":
        places = np.argsort(-soft_labels, axis=1, kind="stable")[:, :top_k]
        values = np.take_along_axis(soft_labels, places, axis=1)
        return {VALUES: values.astype(np.float16), PLACES: places.astype(np.uint16)}
    if scheme == "uint8":
        scaled = soft_labels.astype(np.float64) * STEPS / soft_labels.sum(axis=1, keepdims=True, dtype=np.float64)
        counts = np.floor(scaled)
        missing = STEPS - counts.sum(axis=1, keepdims=True)
        rank = np.argsort(np.argsort(counts - scaled, axis=1, kind="stable"), axis=1, kind="stable")
        return {VALUES: (counts + (rank < missing)).astype(np.uint8)}
    return {VALUES: soft_labels.astype(DTYPES[scheme])}


def decompress(arrays: Mapping[str, np.ndarray], scheme: str, *, classes: int) -> SoftLabels:
    """Return the distributions, float32, from arrays of the scheme's `layout`.

    Raises
    ------
    SoftLabelsError
        If a label is unknown or repeated in a row, or a row is not a distribution within the scheme's precision.
    """
    values = arrays[VALUES]
    if not np.isfinite(values).all():
        raise SoftLabelsError(f"a row of {scheme} soft labels holds a value that is not finite; use compress")
    if scheme == "hard":
        return _spread(np.ones((len(values), 1)), values[:, None], classes)
    if scheme == "top-k":
        return _spread(values.astype(np.float64), arrays[PLACES], classes)
    if scheme == "none":
        return values
    rows = values.astype(np.float64) / (STEPS if scheme == "uint8" else 1)
    sums = rows.sum(axis=1, keepdims=True)
    if not (np.abs(sums - 1) <= MOST_OFF[scheme]).all():
        raise SoftLabelsError(f"a row of {scheme} soft labels does not sum to 1; use compress")
    return np.asarray(rows / sums, dtype=np.float32)


def _spread(values: np.ndarray, places: np.ndarray, classes: int) -> SoftLabels:
    """Put values at their labels, and share the remaining mass of each row equally among the other labels."""
    ordered = np.sort(places, axis=1)
    if (places >= classes).any() or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise SoftLabelsError(f"a kept label is not in 0..{classes - 1} or is repeated in a row; use compress")
    kept = values.sum(axis=1, keepdims=True)
    if not ((values >= 0).all() and (kept > 0).all() and (kept <= 1 + MOST_OFF["float16"]).all()):
        raise SoftLabelsError("a row of kept soft labels is not part of a distribution; use compress")
    others = classes - places.shape[1]
    rows = np.repeat(np.maximum(1 - kept, 0.0) / max(others, 1), classes, axis=1)
    np.put_along_axis(rows, places.astype(np.int64), values, axis=1)
    return np.asarray(rows / rows.sum(axis=1, keepdims=True), dtype=np.float32)
