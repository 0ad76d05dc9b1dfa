"""Checks of what a peer sent, whatever its records are called: sizes before values, and nothing is ever unpickled."""

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

_Value = TypeVar("_Value", int, str, float, bool)
_Record = TypeVar("_Record", ArrayRecord, ConfigRecord, MetricRecord)


def read_record(
    content: RecordDict, key: str, kind: type[_Record], *, records: set[str], keys: set[str] | None = None
) -> _Record:
    """Return one record, and refuse what was not asked for beside or inside it.

    Parameters
    ----------
    content
        The message's records.
    key, kind
        Name and kind of the record to read.
    records
        Names of all records that the message may hold.
    keys
        Exact names of what the record holds; None: not compared.

    Raises
    ------
    WireError
        If the record is missing, of another kind, has other keys, or is not alone with the others asked.
    """
    record = content.get(key)
    if not isinstance(record, kind):
        raise WireError(f"has no record {key!r}; use the matching pack_ function")
    if not set(content) <= records:
        extra = len(set(content) - records)
        raise WireError(f"has {extra} record(s) that nobody asked for; send only {sorted(records)}")
    if keys is not None and set(record) != keys:
        raise WireError(f"has a record {key!r} with other keys than {sorted(keys)}; use the matching pack_ function")
    return record


def read_value(record: ConfigRecord | MetricRecord, key: str, kind: type[_Value]) -> _Value:
    """Return one value of exactly this kind; a bool is no int."""
    value = record.get(key)
    if type(value) is not kind:
        raise WireError(f"{key} is a {type(value).__name__}, expected {kind.__name__}; use the matching pack_ function")
    return value


def read_count(record: ConfigRecord | MetricRecord, key: str, *, least: int) -> int:
    """Return a plausible count of examples."""
    count = read_value(record, key, int)
    if not least <= count <= MOST_EXAMPLES:
        raise WireError(f"has an example count that is not a plausible number; send {least} to {MOST_EXAMPLES}")
    return count


def read_seconds(record: ConfigRecord | MetricRecord, key: str) -> float:
    """Return a plausible duration."""
    seconds = read_value(record, key, float)
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise WireError("has a time that is not a plausible number; send seconds >= 0")
    return seconds


def read_array(array: Array, *, shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT32) -> np.ndarray:
    """Return an array of exactly this shape and kind, read-only and without a copy.

    What the message claims, what the array's own header claims and how many bytes there are must agree; NumPy's
    loader is not used, since it believes the header, opens archives, and could unpickle.

    Raises
    ------
    WireError
        If kind of serialisation, size, shape, order or dtype differ from what was asked.
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
        raise WireError(f"has a header that its data do not bear out; send {wanted}")
    return np.ndarray(shape, dtype, buffer=array.data, offset=stream.tell())


def read_arrays(record: ArrayRecord, expected: Mapping[str, np.ndarray], *, largest: float) -> dict[str, np.ndarray]:
    """Return arrays of exactly the names, shapes and kinds expected, finite and not beyond `largest` in size."""
    if set(record) != set(expected):
        raise WireError("does not hold exactly the student's arrays; send those of its specification")
    arrays = {name: read_array(record[name], shape=value.shape, dtype=value.dtype) for name, value in expected.items()}
    for array in arrays.values():
        if not np.isfinite(array).all():
            raise WireError("has parameters that are not finite; lower the learning rates")
        if array.size and float(np.abs(array).max()) > largest:
            raise WireError(f"has parameters beyond {largest:g}; lower the learning rates")
    return arrays


def cut_printable(text: str, length: int) -> str:
    r"""Cut a peer's text and drop what a terminal would act on.

    Examples
    --------
    >>> cut_printable("\x1b[31mred\n", 20)
    '[31mred'
    """
    return log.printable(text[:length])
