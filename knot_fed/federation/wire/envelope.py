"""Parts of every message: protocol version, refusals, byte counts, and bounds on the size of an honest reply."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from knot_fed.errors import WireError
from knot_fed.federation.wire.checks import cut_printable

PROTOCOL = 4
ABOUT = "about"
REFUSAL = "refusal"
LONGEST_REFUSAL = 500
_ARRAY_BYTES, _ARRAY_OBJECTS = 1024, 4
_ENVELOPE_BYTES, _ENVELOPE_OBJECTS = 1 << 16, 32
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ReplyBounds:
    """How large an honest reply can be: total bytes, and the number of objects that Flower splits it into."""

    bytes: int
    objects: int

    @classmethod
    def of_arrays(cls, sizes: Sequence[int]) -> "ReplyBounds":
        """Bound a reply that holds arrays of these sizes, in bytes, and a few values."""
        return cls(
            sum(sizes) + _ARRAY_BYTES * len(sizes) + _ENVELOPE_BYTES,
            _ARRAY_OBJECTS * len(sizes) + sum(sizes) // _CHUNK_BYTES + _ENVELOPE_OBJECTS,
        )

    @classmethod
    def of_soft_labels(cls, examples: int, classes: int, *, scored: bool = True) -> "ReplyBounds":
        """Bound one teacher's answer: soft labels, and scores if the run reads them; changed rows are never more."""
        return cls.of_arrays([4 * examples * classes, 4 * examples * scored])


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Pack arrays by name."""
    return ArrayRecord({name: Array(np.asarray(value, order="C")) for name, value in arrays.items()})


def pack_refusal(reason: str) -> RecordDict:
    """Pack one sentence that holds no private content."""
    return RecordDict({REFUSAL: ConfigRecord({"reason": cut_printable(reason, LONGEST_REFUSAL)})})


def refusal_of(content: RecordDict) -> str | None:
    """Return the peer's refusal, cut to 500 printable characters, or None."""
    if REFUSAL not in content:
        return None
    record = content[REFUSAL]
    reason = record.get("reason") if isinstance(record, ConfigRecord) else None
    return cut_printable(reason, LONGEST_REFUSAL) if isinstance(reason, str) else "refused and gave no reason"


def count_bytes(content: RecordDict) -> int:
    """Count the payload of a message in bytes, as Flower does; Flower's own count fails on an empty string."""
    return sum(sum(len(key) + _value_bytes(value) for key, value in record.items()) for record in content.values())


def _value_bytes(value: object) -> int:
    if isinstance(value, Array):
        return len(value.data)
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    return len(value) if isinstance(value, str | bytes) else 1 if isinstance(value, bool) else 8


def check_protocol(theirs: int) -> None:
    """Refuse a peer that uses another protocol version."""
    if theirs != PROTOCOL:
        raise WireError(f"speaks protocol {theirs}, expected {PROTOCOL}; install the same knot_fed release")
