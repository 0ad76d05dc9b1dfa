"""Soft labels in fewer bytes. None of this is a privacy mechanism: it guarantees nothing."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from knot_fed.config import PrivacyConfig
from knot_fed.errors import SoftLabelsError
from knot_fed.types import SoftLabels, TeacherAnswer

VALUES = "soft-labels"
PLACES = "kept-labels"
STEPS = 255
MOST_OFF = {"none": 1e-4, "float16": 5e-3, "uint8": 1e-6}
"""How far the sum of a row on the wire may be from 1."""


def layout(scheme: str, *, examples: int, classes: int, top_k: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape and kind of each array that soft labels become under a scheme.

    Examples
    --------
    >>> layout("hard", examples=7, classes=5, top_k=2)
    {'soft-labels': ((7,), dtype('uint16'))}
    """
    kept = (examples, min(top_k, classes))
    half: np.dtype[Any] = np.dtype(np.float16)
    places: np.dtype[Any] = np.dtype(np.uint16)
    whole: dict[str, np.dtype[Any]] = {"none": np.dtype(np.float32), "float16": half, "uint8": np.dtype(np.uint8)}
    if scheme == "hard":
        return {VALUES: ((examples,), places)}
    if scheme == "top-k":
        return {VALUES: (kept, half), PLACES: (kept, places)}
    return {VALUES: ((examples, classes), whole[scheme])}


def compress(soft_labels: SoftLabels, scheme: str, *, top_k: int) -> dict[str, np.ndarray]:
    """Turn soft labels into the arrays that travel.

    Parameters
    ----------
    soft_labels
        One distribution for each text.
    scheme
        `none`: float32; `float16`; `uint8`: counts out of 255, the largest remainders rounded up; `top-k`: the largest
        entries as float16 with their places; `hard`: the place of the largest.
    top_k
        Entries kept under `top-k`; all, where there are fewer labels.
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
    return {VALUES: soft_labels.astype(np.float16 if scheme == "float16" else np.float32)}


def decompress(arrays: Mapping[str, np.ndarray], scheme: str, *, classes: int) -> SoftLabels:
    """Turn arrays of the scheme's `layout` back into distributions, float32.

    Raises
    ------
    SoftLabelsError
        If a place is no label, is named twice, or a row is no distribution, to the scheme's precision.
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
    shared: SoftLabels = (rows / sums).astype(np.float32)
    return shared


def _spread(values: np.ndarray, places: np.ndarray, classes: int) -> SoftLabels:
    """Put values at their places, and what a row lacks evenly on the other labels."""
    ordered = np.sort(places, axis=1)
    if (places >= classes).any() or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise SoftLabelsError(
            f"a place of kept labels is not in 0..{classes - 1} or stands twice in a row; use compress"
        )
    kept = values.sum(axis=1, keepdims=True)
    if not ((values >= 0).all() and (kept > 0).all() and (kept <= 1 + MOST_OFF["float16"]).all()):
        raise SoftLabelsError("a row of kept soft labels is not part of a distribution; use compress")
    others = classes - places.shape[1]
    rest = np.maximum(1 - kept, 0.0) / max(others, 1)
    rows = np.repeat(rest, classes, axis=1)
    np.put_along_axis(rows, places.astype(np.int64), values, axis=1)
    shared: SoftLabels = (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
    return shared


def as_received(answer: TeacherAnswer, privacy: PrivacyConfig) -> TeacherAnswer:
    """Return an answer as the server reads it: its soft labels compressed and brought back, its scores in float32."""
    sent = compress(answer.soft_labels, privacy.compression, top_k=privacy.top_k)
    received = decompress(sent, privacy.compression, classes=answer.soft_labels.shape[1])
    return TeacherAnswer(received, answer.scores.astype(np.float32), answer.examples)
