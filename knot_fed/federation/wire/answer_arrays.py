"""The arrays of an answer, of all rows or of those that changed since the answer that client and server both hold.

SCARLET (Azuma et al. 2025, arXiv 2504.19602) caches the pooled soft labels: in its public code, a text is not asked for
again until its entry is older than a fixed number of rounds, however much the teachers have changed since. Here each
client compares its new soft labels with those that the server holds from it, which bounds the error.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord
from jaxtyping import UInt

from knot_fed.config import PrivacyConfig
from knot_fed.errors import WireError
from knot_fed.federation.wire.checks import FLOAT32, read_array
from knot_fed.privacy.compression import compress, layout
from knot_fed.types import SoftLabels, TeacherAnswer

AnswerArrays: TypeAlias = Mapping[str, np.ndarray]
"""An answer as the wire carries it: compressed soft labels and scores, by name."""
CONFIDENCE = "confidence"
ROWS = "rows"
"""Positions of the changed rows within the requested slice."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldRows:
    """The whole of a client's last answer, and its digest, by which client and server know that they hold the same."""

    arrays: AnswerArrays
    digest: str

    @classmethod
    def of(cls, arrays: AnswerArrays, *, fingerprint: str, rows: range) -> "HeldRows":
        """Digest the arrays of an answer for some rows of the transfer set with this fingerprint."""
        digest = hashlib.sha256(f"{fingerprint} {rows.start} {rows.stop}".encode())
        for name, array in sorted(arrays.items()):
            digest.update(f" {name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return cls(arrays, digest.hexdigest())


def answer_arrays(answer: TeacherAnswer, *, privacy: PrivacyConfig, scored: bool) -> dict[str, np.ndarray]:
    """Return a whole answer's arrays, compressed as configured; without `scored` the scores are empty."""
    scores = answer.scores.astype(np.float32)
    arrays = compress(answer.soft_labels, privacy.compression, top_k=privacy.top_k)
    return arrays | {CONFIDENCE: scores if scored else scores[:0]}


def changed_rows(held: SoftLabels, now: SoftLabels, *, above: float) -> UInt[np.ndarray, "changed"]:
    """Return the positions of the soft labels whose total variation distance to the held ones is larger than `above`.

    The distance is half the sum of the absolute differences. If the other rows are kept, each of them differs from the
    new one by at most `above`. A row that is kept over several rounds is compared with what is held each time, so
    errors do not add up. A mean of the teachers' rows with any weights has at most the same error, since the distance
    is convex.

    Examples
    --------
    >>> held, now = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.875, 0.125], [0.0, 1.0]])
    >>> changed_rows(held, now, above=0.125).tolist()
    [1]
    """
    distances = np.abs(held.astype(np.float64) - now).sum(axis=1) / 2
    return np.flatnonzero(distances > above).astype(np.uint32)


def take_rows(arrays: AnswerArrays, rows: UInt[np.ndarray, "changed"]) -> dict[str, np.ndarray]:
    """Return the given rows of each array, with their positions; an array without rows, of scores, stays empty."""
    return {name: array[rows] if len(array) else array for name, array in arrays.items()} | {ROWS: rows}


def replace_rows(held: AnswerArrays, changed: AnswerArrays) -> dict[str, np.ndarray]:
    """Return the whole answer from the one held and what `take_rows` returned."""
    whole = {name: array.copy() for name, array in held.items()}
    for name, array in whole.items():
        if len(array):
            array[changed[ROWS]] = changed[name]
    return whole


def count_bytes(arrays: AnswerArrays) -> int:
    """Count the bytes of the values."""
    return sum(array.nbytes for array in arrays.values())


def array_names(privacy: PrivacyConfig, *, changes: bool) -> set[str]:
    """Return the names of the arrays of a whole answer, or of one with changed rows only."""
    return {*layout(privacy.compression, examples=1, classes=1, top_k=1), CONFIDENCE, *[ROWS] * changes}


def read_arrays(
    record: ArrayRecord,
    *,
    examples: int,
    classes: int,
    privacy: PrivacyConfig,
    scored: bool,
    held: AnswerArrays | None,
) -> tuple[AnswerArrays, int]:
    """Return a whole answer's arrays, and the number of rows sent; rows that were not sent are those of `held`."""
    rows = read_positions(record[ROWS], examples=examples, what="changed rows") if held is not None else None
    count = examples if rows is None else len(rows)
    expected = layout(privacy.compression, examples=count, classes=classes, top_k=privacy.top_k)
    expected[CONFIDENCE] = ((count if scored else 0,), FLOAT32)
    sent = {name: read_array(record[name], shape=shape, dtype=dtype) for name, (shape, dtype) in expected.items()}
    return (sent if held is None or rows is None else replace_rows(held, sent | {ROWS: rows})), count


def read_positions(array: Array, *, examples: int, what: str) -> UInt[np.ndarray, "positions"]:
    """Read positions of texts, which must increase and lie within the requested slice; `what` names them in errors."""
    shape = tuple(array.shape)
    if len(shape) != 1 or not 0 <= shape[0] <= examples:
        raise WireError(f"has {what} of another shape than 0 to {examples} positions; send each position once")
    rows = read_array(array, shape=shape, dtype=np.dtype(np.uint32))
    if len(rows) and not ((rows[1:] > rows[:-1]).all() and rows[-1] < examples):
        raise WireError(f"has {what} that do not increase from 0 to {examples - 1}; send positions in order")
    return rows
