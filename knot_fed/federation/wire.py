"""The wire format: the only code that knows record keys, dtypes and the protocol version.

Every `unpack_` function raises `WireError` and nothing else, whatever the peer sent, and looks at sizes before values.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from jaxtyping import Float

from knot_fed.config import PrivacyConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import SoftLabelsError, WireError
from knot_fed.federation.checks import (
    printable,
    read_array,
    read_arrays,
    read_count,
    read_record,
    read_seconds,
    read_value,
)
from knot_fed.labels import LabelSpace, check_soft_labels
from knot_fed.privacy.compression import compress, decompress, layout
from knot_fed.types import Metrics, SoftLabels, Text

PROTOCOL = 2
ABOUT = "about"
TEXTS = "texts"
ANSWER = "answer"
STUDENT = "student"
METRICS = "metrics"
REFUSAL = "refusal"
SOFT_LABELS = "soft-labels"
PARAMETERS = "parameters"
TRAINING = "training"
EXAMPLES = "num-examples"
CONFIDENCE = "confidence"
ROUND_OF_FLOWER = "server-round"
COLUMNS = ("column-0", "column-1")
MOST_TEXTS = 1_000_000
LONGEST_TEXT = 100_000
MOST_LETTERS = 1 << 26
LONGEST_SPEC = 1 << 22
LONGEST_REFUSAL = 500
LARGEST_PARAMETER = 1e6
LARGEST_CONFIDENCE = 2.0
TOLERANCE = 1e-4
_ARRAY_BYTES, _ARRAY_OBJECTS = 1024, 4
_ENVELOPE_BYTES, _ENVELOPE_OBJECTS = 1 << 16, 32
_CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Handshake:
    """What both sides compare before any training: protocol, labels, transfer set, and who is speaking."""

    protocol: int
    labels: str
    fingerprint: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class ReplyBounds:
    """How large an honest reply can be: bytes in all, and objects that Flower cuts it into."""

    bytes: int
    objects: int

    @classmethod
    def of_arrays(cls, sizes: Sequence[int]) -> "ReplyBounds":
        """Bound a reply that holds arrays of so many bytes each, and a few values."""
        return cls(
            sum(sizes) + _ARRAY_BYTES * len(sizes) + _ENVELOPE_BYTES,
            _ARRAY_OBJECTS * len(sizes) + sum(sizes) // _CHUNK_BYTES + _ENVELOPE_OBJECTS,
        )

    @classmethod
    def of_soft_labels(cls, examples: int, classes: int) -> "ReplyBounds":
        """Bound one teacher's answer."""
        return cls.of_arrays([4 * examples * classes, 4 * examples])


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """A slice of the transfer set to label, and the texts themselves where the client does not hold them yet."""

    round: int
    fingerprint: str
    start: int
    stop: int
    transfer: TransferSet | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a client says of its answers in this run so far; without a guarantee epsilon is infinite."""

    mechanism: str
    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainReply:
    """One teacher's soft labels for the slice asked, float32 (examples, classes), and how it weighs."""

    soft_labels: SoftLabels
    confidence: Float[np.ndarray, "examples"]
    examples: int
    reused: bool
    seconds: float
    claim: Claim


def pack_handshake(handshake: Handshake) -> RecordDict:
    """Pack either side of the handshake."""
    about = ConfigRecord({"protocol": handshake.protocol, "labels": handshake.labels, "name": handshake.name})
    about["fingerprint"] = handshake.fingerprint
    return RecordDict({ABOUT: about})


def unpack_handshake(content: RecordDict) -> Handshake:
    """Read either side of the handshake; names are checked by `check_handshake`."""
    keys = {"protocol", "labels", "fingerprint", "name"}
    about = read_record(content, ABOUT, ConfigRecord, records={ABOUT}, keys=keys)
    return Handshake(
        protocol=read_value(about, "protocol", int),
        labels=read_value(about, "labels", str),
        fingerprint=read_value(about, "fingerprint", str),
        name=read_value(about, "name", str),
    )


def check_handshake(ours: Handshake, theirs: Handshake) -> None:
    """Refuse a peer that cannot take part.

    Raises
    ------
    WireError
        If protocol version, label space or transfer set differ, or fingerprint or name do not have their form.
    """
    _check_protocol(theirs.protocol, ours.protocol)
    if theirs.labels != ours.labels:
        raise WireError(
            f"has labels {printable(theirs.labels, 200)}, expected {ours.labels[:200]}; agree on one label space"
        )
    if theirs.fingerprint and not _FINGERPRINT.fullmatch(theirs.fingerprint):
        raise WireError("names its transfer set by something that is no SHA-256; use TransferSet.fingerprint")
    if theirs.fingerprint and ours.fingerprint and theirs.fingerprint != ours.fingerprint:
        raise WireError(
            f"holds transfer set {printable(theirs.fingerprint, 12)}, expected {ours.fingerprint[:12]};"
            " give it the server's file"
        )
    if theirs.name and not (_NAME.fullmatch(theirs.name) and theirs.name.strip(".")):
        raise WireError("has a name that is not 1 to 64 letters, digits, dots, dashes or underscores; rename the node")


def pack_train_request(request: TrainRequest) -> RecordDict:
    """Pack what a client is asked in one round."""
    about = ConfigRecord({"protocol": PROTOCOL, "round": request.round, "start": request.start, "stop": request.stop})
    about["fingerprint"] = request.fingerprint
    content = RecordDict({ABOUT: about})
    if request.transfer is not None:
        content[TEXTS] = pack_transfer_set(request.transfer)
    return content


def unpack_train_request(content: RecordDict) -> TrainRequest:
    """Read what the server asks, and check the texts, if they came along, against their fingerprint."""
    keys = {"protocol", "round", "fingerprint", "start", "stop"}
    about = read_record(content, ABOUT, ConfigRecord, records={ABOUT, TEXTS}, keys=keys)
    _check_protocol(read_value(about, "protocol", int), PROTOCOL)
    texts = read_record(content, TEXTS, ConfigRecord, records={ABOUT, TEXTS}) if TEXTS in content else None
    request = TrainRequest(
        round=read_value(about, "round", int),
        fingerprint=read_value(about, "fingerprint", str),
        start=read_value(about, "start", int),
        stop=read_value(about, "stop", int),
        transfer=None if texts is None else unpack_transfer_set(texts),
    )
    if not 0 < request.round <= MOST_TEXTS:
        raise WireError(f"asks in round {request.round}, expected 1 to {MOST_TEXTS}; count rounds from 1")
    if not 0 <= request.start < request.stop <= MOST_TEXTS:
        raise WireError(f"asks for rows that are not a slice of 1 to {MOST_TEXTS} texts; ask for a non-empty slice")
    if request.transfer is not None and request.transfer.fingerprint != request.fingerprint:
        raise WireError("the transfer texts do not have the fingerprint that the server names; send them again")
    return request


def pack_transfer_set(transfer: TransferSet) -> ConfigRecord:
    """Pack ordered texts; pairs travel as two lists."""
    columns = list(zip(*transfer.texts, strict=True)) if transfer.paired else [list(transfer.texts)]
    return ConfigRecord({name: list(column) for name, column in zip(COLUMNS, columns, strict=False)})


def unpack_transfer_set(record: ConfigRecord) -> TransferSet:
    """Read ordered texts, neither none nor endless ones."""
    if set(record) not in ({COLUMNS[0]}, set(COLUMNS)):
        raise WireError("the transfer texts are not one column or two; send them again")
    columns = [_texts(record[name]) for name in COLUMNS if name in record]
    if len({len(column) for column in columns}) > 1:
        raise WireError(f"{len(columns[0])} first texts and {len(columns[1])} second ones; send pairs")
    rows: list[Text] = list(zip(*columns, strict=True)) if len(columns) > 1 else list(columns[0])
    return TransferSet(tuple(rows))


def _texts(column: object) -> list[str]:
    if not isinstance(column, list) or not all(isinstance(text, str) for text in column):
        raise WireError("the transfer texts are not lists of strings; send them again")
    if not 0 < len(column) <= MOST_TEXTS:
        raise WireError(f"{len(column)} transfer texts, expected 1 to {MOST_TEXTS}; send fewer")
    if max(map(len, column)) > LONGEST_TEXT or sum(map(len, column)) > MOST_LETTERS:
        raise WireError(
            f"a transfer text is longer than {LONGEST_TEXT} letters, or all are longer than {MOST_LETTERS}; cut them"
        )
    return column


def pack_soft_labels(reply: TrainReply, *, round_number: int, privacy: PrivacyConfig) -> RecordDict:
    """Pack one teacher's answer, compressed as the run asks; nothing else about the teacher leaves."""
    answer = {"protocol": PROTOCOL, "round": round_number, "examples": reply.examples}
    about = ConfigRecord({**answer, "reused": reply.reused, "seconds": reply.seconds})
    about["mechanism"], about["epsilon"], about["delta"] = reply.claim.mechanism, reply.claim.epsilon, reply.claim.delta
    arrays = compress(reply.soft_labels, privacy.compression, top_k=privacy.top_k)
    arrays[CONFIDENCE] = reply.confidence.astype(np.float32)
    return RecordDict({SOFT_LABELS: pack_state(arrays), ANSWER: about})


def unpack_soft_labels(
    content: RecordDict, *, round_number: int, examples: int, labels: LabelSpace, privacy: PrivacyConfig
) -> TrainReply:
    """Read one teacher's answer and refuse anything but distributions of the shape asked.

    Parameters
    ----------
    content
        The reply's records.
    round_number, examples, labels
        The round, the number of texts and the label space that were asked.
    privacy
        The mechanism that was asked, which the client must claim, and the compression.

    Raises
    ------
    WireError
        If records, dtype, shape, size, round or values differ from what was asked.
    """
    keys = {"protocol", "round", "examples", "reused", "seconds", "mechanism", "epsilon", "delta"}
    answer = read_record(content, ANSWER, ConfigRecord, records={ANSWER, SOFT_LABELS}, keys=keys)
    _check_protocol(read_value(answer, "protocol", int), PROTOCOL)
    if read_value(answer, "round", int) != round_number:
        raise WireError(f"answers another round than {round_number}; drop the old reply")
    expected = layout(privacy.compression, examples=examples, classes=len(labels), top_k=privacy.top_k)
    names = {*expected, CONFIDENCE}
    arrays = read_record(content, SOFT_LABELS, ArrayRecord, records={ANSWER, SOFT_LABELS}, keys=names)
    sent = {name: read_array(arrays[name], shape=shape, dtype=dtype) for name, (shape, dtype) in expected.items()}
    confidence = read_array(arrays[CONFIDENCE], shape=(examples,))
    try:
        soft_labels = decompress(sent, privacy.compression, classes=len(labels))
        check_soft_labels(soft_labels)
    except SoftLabelsError as error:
        raise WireError(str(error)) from None
    if not ((confidence >= 0) & (confidence <= LARGEST_CONFIDENCE)).all():
        raise WireError(f"has a confidence outside 0..{LARGEST_CONFIDENCE:g}; send the scores of teacher_scores")
    return TrainReply(
        soft_labels,
        confidence,
        examples=read_count(answer, "examples", least=0),
        reused=read_value(answer, "reused", bool),
        seconds=read_seconds(answer, "seconds"),
        claim=read_claim(answer, asked=privacy.mechanism),
    )


def read_claim(answer: ConfigRecord, *, asked: str) -> Claim:
    """Read what a client says of its answers, which must be the mechanism asked."""
    mechanism, epsilon, delta = (
        read_value(answer, "mechanism", str), read_value(answer, "epsilon", float), read_value(answer, "delta", float)
    )  # fmt: skip
    if mechanism != asked:
        raise WireError(
            f"claims mechanism {printable(mechanism, 20)!r}, expected {asked!r}; use the run's configuration"
        )
    if not (epsilon >= 0 and 0 <= delta < 1 and np.isinf(epsilon) == (asked == "none")):
        raise WireError("claims an epsilon or a delta that is none; send what the ledger composes")
    return Claim(mechanism, epsilon, delta)


def pack_student(spec: str, state: ArrayRecord) -> RecordDict:
    """Pack the student, by its specification (JSON) and its trained arrays."""
    return RecordDict({STUDENT: state, ABOUT: ConfigRecord({"protocol": PROTOCOL, "spec": spec})})


def unpack_student(content: RecordDict) -> tuple[str, ArrayRecord]:
    """Read the student's specification (JSON), and its arrays for `unpack_state`."""
    return _student(content, keys={"protocol", "spec"})


def unpack_averaging_request(content: RecordDict) -> tuple[str, ArrayRecord, int]:
    """Read the student to train on private examples, as `unpack_student`, and the round."""
    keys = {"protocol", "spec", ROUND_OF_FLOWER}
    about = read_record(content, ABOUT, ConfigRecord, records={ABOUT, STUDENT}, keys=keys)
    return *_student(content, keys=keys), read_value(about, ROUND_OF_FLOWER, int)


def _student(content: RecordDict, *, keys: set[str]) -> tuple[str, ArrayRecord]:
    about = read_record(content, ABOUT, ConfigRecord, records={ABOUT, STUDENT}, keys=keys)
    _check_protocol(read_value(about, "protocol", int), PROTOCOL)
    spec = read_value(about, "spec", str)
    if len(spec) > LONGEST_SPEC:
        raise WireError(f"the student's specification has {len(spec)} letters, expected {LONGEST_SPEC} at most; cut it")
    return spec, read_record(content, STUDENT, ArrayRecord, records={ABOUT, STUDENT})


def pack_state(state: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Pack trained arrays."""
    return ArrayRecord({name: Array(np.asarray(value, order="C")) for name, value in state.items()})


def unpack_state(record: ArrayRecord, *, expected: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Read the student's trained arrays, which must have the names, shapes and kinds of those expected."""
    return read_arrays(record, expected, largest=LARGEST_PARAMETER)


def pack_parameters(state: Mapping[str, np.ndarray], *, examples: int, seconds: float) -> RecordDict:
    """Pack parameters trained on private examples; only federated averaging sends them."""
    return RecordDict({PARAMETERS: pack_state(state), TRAINING: MetricRecord({EXAMPLES: examples, "seconds": seconds})})


def check_parameters(content: RecordDict, *, expected: Mapping[str, np.ndarray]) -> tuple[int, float]:
    """Refuse anything but finite parameters of the expected names, shapes and kinds.

    Returns
    -------
    examples
        How many the client trained on, >= 1.
    seconds
        How long it took.

    Raises
    ------
    WireError
        If records, names, dtypes, shapes, sizes or values differ from what was asked.
    """
    records = {PARAMETERS, TRAINING}
    training = read_record(content, TRAINING, MetricRecord, records=records, keys={EXAMPLES, "seconds"})
    read_arrays(read_record(content, PARAMETERS, ArrayRecord, records=records), expected, largest=LARGEST_PARAMETER)
    return read_count(training, EXAMPLES, least=1), read_seconds(training, "seconds")


def pack_metrics(metrics: Metrics) -> RecordDict:
    """Pack the student's metrics on one private test split."""
    return RecordDict({METRICS: MetricRecord({**metrics.to_mapping()})})


def unpack_metrics(content: RecordDict, *, labels: LabelSpace) -> Metrics:
    """Read metrics and refuse values that no test split can give."""
    names = set(Metrics.__dataclass_fields__)
    record = read_record(content, METRICS, MetricRecord, records={METRICS}, keys=names)
    values = {name: read_value(record, name, float) for name in names - {"examples"}}
    farthest = labels.diameter + TOLERANCE
    for name, value in values.items():
        most = farthest if name in ("sd", "w1") else 1 + TOLERANCE
        if not 0 <= value <= most:
            raise WireError(f"has a metric {name} outside 0..{most:.4g}; check the client's evaluation")
    if values["sd"] > values["w1"] + TOLERANCE:
        raise WireError("has an sd above its w1, which cannot be; check the client's evaluation")
    return Metrics(**values, examples=read_count(record, "examples", least=0))


def pack_refusal(reason: str) -> RecordDict:
    """Pack one sentence that holds no private content."""
    return RecordDict({REFUSAL: ConfigRecord({"reason": printable(reason, LONGEST_REFUSAL)})})


def refusal_of(content: RecordDict) -> str | None:
    """Return the peer's refusal, cut to 500 printable characters, or None."""
    if REFUSAL not in content:
        return None
    record = content[REFUSAL]
    reason = record.get("reason") if isinstance(record, ConfigRecord) else None
    return printable(reason, LONGEST_REFUSAL) if isinstance(reason, str) else "refused and gave no reason"


def content_to_bytes(content: RecordDict) -> bytes:
    """Serialise records as they travel, to be kept."""
    return bytes(recorddict_to_proto(content).SerializeToString())


def content_from_bytes(kept: bytes) -> RecordDict:
    """Read what `content_to_bytes` wrote; the matching unpack_ function checks it."""
    return recorddict_from_proto(ProtoRecordDict.FromString(kept))


def count_bytes(content: RecordDict) -> int:
    """Count the payload of a message in bytes, as Flower does; its own count fails on an empty string."""
    return sum(sum(len(key) + _value_bytes(value) for key, value in record.items()) for record in content.values())


def _value_bytes(value: object) -> int:
    if isinstance(value, Array):
        return len(value.data)
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    return len(value) if isinstance(value, str | bytes) else 1 if isinstance(value, bool) else 8


def canonical_labels(labels: LabelSpace) -> str:
    """Return the label space as the handshake compares it."""
    return json.dumps(json.loads(labels.to_json()), sort_keys=True)


def _check_protocol(theirs: int, ours: int) -> None:
    if theirs != ours:
        raise WireError(f"speaks protocol {theirs}, expected {ours}; install the same knot_fed release")
