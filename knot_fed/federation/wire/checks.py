"""Checks on what a peer sent: sizes before values, and nothing is ever unpickled."""

import math
from collections.abc import Mapping
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from knot_fed.errors import WireError
from knot_fed.runs import log

FLOAT32 = np.dtype(np.float32)
HEADER_BYTES = 256
NUMPY = "numpy.ndarray"
MOST_EXAMPLES = 10**9
LONGEST_SECONDS = 10.0**7

_Record = TypeVar("_Record", ArrayRecord, ConfigRecord, MetricRecord)


def read_record(
    content: RecordDict, key: str, kind: type[_Record], *, records: set[str], keys: set[str] | None = None
) -> _Record:
    """Return record `key` of a message that may hold only `records`; `keys` are the exact names inside it."""
    record = content.get(key)
    if not isinstance(record, kind):
        raise WireError(f"has no record {key!r}; use the matching pack_ function")
    if not set(content) <= records:
        extra = len(set(content) - records)
        raise WireError(f"has {extra} record(s) that nobody asked for; send only {sorted(records)}")
    if keys is not None and set(record) != keys:
        raise WireError(f"has a record {key!r} with other keys than {sorted(keys)}; use the matching pack_ function")
    return record


def read_values(
    content: RecordDict, key: str, kinds: Mapping[str, type], *, records: set[str], kind: type[Any] = ConfigRecord
) -> dict[str, Any]:
    """Return the values of record `key`, which must have exactly these names and types; a bool is not an int."""
    values: dict[str, Any] = {**read_record(content, key, kind, records=records, keys=set(kinds))}
    for name, expected in kinds.items():
        if type(values[name]) is not expected:
            found = type(values[name]).__name__
            raise WireError(f"{name} is a {found}, expected {expected.__name__}; use the matching pack_ function")
    return values


def check_count(count: int, *, least: int) -> int:
    """Return a number of examples, if it is plausible."""
    if not least <= count <= MOST_EXAMPLES:
        raise WireError(f"has an example count that is not a plausible number; send {least} to {MOST_EXAMPLES}")
    return count


def check_seconds(seconds: float) -> float:
    """Return a duration, if it is plausible."""
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise WireError("has a time that is not a plausible number; send seconds >= 0")
    return seconds


def read_array(array: Array, *, shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT32) -> np.ndarray:
    """Return an array of exactly this shape and dtype, read-only and without a copy.

    The message, the array's own header and the number of bytes must agree. NumPy's loader is not used: it trusts the
    header, opens archives, and could unpickle.
    """
    wanted = f"{dtype} of shape {shape}, in C order"
    size = math.prod(shape) * dtype.itemsize
    if array.stype != NUMPY:
        raise WireError(f"is not a NumPy array but {cut_printable(array.stype, 20)!r}; send {wanted}")
    if len(array.data) > size + HEADER_BYTES:
        raise WireError(f"holds {len(array.data)} bytes, expected {size}; send {wanted}")
    if array.dtype != str(dtype) or tuple(array.shape) != shape:
        claimed = f"{cut_printable(array.dtype, 20)} with {len(array.shape)} dimension(s)"
        raise WireError(f"is {claimed}, expected {dtype} {shape}; send {wanted}")
    stream = BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0(stream, max_header_size=HEADER_BYTES)
    except Exception:
        raise WireError(f"cannot be read as an array; send {wanted}") from None
    if version != (1, 0) or header != (shape, False, dtype) or len(array.data) - stream.tell() != size:
        raise WireError(f"has a header that does not match its data; send {wanted}")
    return np.ndarray(shape, dtype, buffer=array.data, offset=stream.tell())


def cut_printable(text: str, length: int) -> str:
    r"""Cut a peer's text, and drop the characters that control a terminal.

    >>> cut_printable("\x1b[31mred\n", 20)
    '[31mred'
    """
    return log.printable(text[:length])
