"""The wire format: the only code that knows record keys, dtypes and the protocol version.

Every `unpack_` function raises `WireError` and nothing else, whatever the peer sent, and looks at sizes before values.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from jaxtyping import Float

from knot_fed.config import PrivacyConfig
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import SoftLabelsError, WireError
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
HEADER_BYTES = 256
FLOAT32 = np.dtype(np.float32)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Handshake:
    """What both sides compare before any training: protocol, labels, transfer set, and who is speaking."""

    protocol: int
    labels: str
    fingerprint: str
    name: str = ""


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
    about = _config(content, ABOUT, only={ABOUT})
    return Handshake(
        protocol=_value(about, "protocol", int),
        labels=_value(about, "labels", str),
        fingerprint=_value(about, "fingerprint", str),
        name=_value(about, "name", str),
    )


def check_handshake(ours: Handshake, theirs: Handshake) -> None:
    """Refuse a peer that cannot take part.

    Raises
    ------
    WireError
        If protocol version, label space or transfer set differ, or the name is not a plain file name.
    """
    if theirs.protocol != ours.protocol:
        raise WireError(
            f"speaks protocol {theirs.protocol}, expected {ours.protocol}; install the same knot_fed release"
        )
    if theirs.labels != ours.labels:
        raise WireError(f"has labels {theirs.labels[:200]}, expected {ours.labels[:200]}; agree on one label space")
    if theirs.fingerprint and ours.fingerprint and theirs.fingerprint != ours.fingerprint:
        raise WireError(
            f"holds transfer set {theirs.fingerprint[:12]}, expected {ours.fingerprint[:12]}; give it the server's file"
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
    about = _config(content, ABOUT, only={ABOUT, TEXTS})
    transfer = unpack_transfer_set(_config(content, TEXTS)) if TEXTS in content else None
    request = TrainRequest(
        round=_value(about, "round", int),
        fingerprint=_value(about, "fingerprint", str),
        start=_value(about, "start", int),
        stop=_value(about, "stop", int),
        transfer=transfer,
    )
    if transfer is not None and transfer.fingerprint != request.fingerprint:
        raise WireError("the transfer texts do not have the fingerprint that the server names; send them again")
    if not 0 <= request.start < request.stop:
        raise WireError(f"asks for rows {request.start} to {request.stop}; ask for a non-empty slice")
    return request


def pack_transfer_set(transfer: TransferSet) -> ConfigRecord:
    """Pack ordered texts; pairs travel as two lists."""
    columns = list(zip(*transfer.texts, strict=True)) if transfer.paired else [list(transfer.texts)]
    return ConfigRecord({f"column-{index}": list(column) for index, column in enumerate(columns)})


def unpack_transfer_set(record: ConfigRecord) -> TransferSet:
    """Read ordered texts."""
    columns = [record.get("column-0"), record.get("column-1")]
    for column in columns[: len(record)]:
        if not isinstance(column, list) or not all(isinstance(text, str) for text in column):
            raise WireError("the transfer texts are not lists of strings; send them again")
    first, second = columns
    if not isinstance(first, list) or len(record) > 2:
        raise WireError("the transfer texts have no first column; send them again")
    texts: list[Text] = [str(text) for text in first]
    if isinstance(second, list):
        if len(second) != len(first):
            raise WireError(f"{len(first)} first texts and {len(second)} second ones; send pairs")
        texts = [(str(a), str(b)) for a, b in zip(first, second, strict=True)]
    return TransferSet(tuple(texts))


def pack_soft_labels(reply: TrainReply, *, round_number: int, privacy: PrivacyConfig) -> RecordDict:
    """Pack one teacher's answer, compressed as the run asks; nothing else about the teacher leaves."""
    answer = {"protocol": PROTOCOL, "round": round_number, "examples": reply.examples}
    about = ConfigRecord({**answer, "reused": reply.reused, "seconds": reply.seconds})
    about["mechanism"], about["epsilon"], about["delta"] = reply.claim.mechanism, reply.claim.epsilon, reply.claim.delta
    arrays = compress(reply.soft_labels, privacy.compression, top_k=privacy.top_k)
    arrays[CONFIDENCE] = reply.confidence.astype(np.float32)
    return RecordDict({SOFT_LABELS: ArrayRecord({key: Array(value) for key, value in arrays.items()}), ANSWER: about})


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
    answer = _config(content, ANSWER, only={ANSWER, SOFT_LABELS})
    if _value(answer, "round", int) != round_number:
        raise WireError(f"answers round {answer['round']!r}, expected {round_number}; drop the old reply")
    arrays = content.get(SOFT_LABELS)
    expected = layout(privacy.compression, examples=examples, classes=len(labels), top_k=privacy.top_k)
    if not isinstance(arrays, ArrayRecord) or set(arrays) != {*expected, CONFIDENCE}:
        raise WireError("does not hold exactly the arrays of soft labels and confidence; use pack_soft_labels")
    sent = {name: _array(arrays[name], shape=shape, dtype=dtype) for name, (shape, dtype) in expected.items()}
    confidence = _array(arrays[CONFIDENCE], shape=(examples,))
    try:
        soft_labels = decompress(sent, privacy.compression, classes=len(labels))
        check_soft_labels(soft_labels)
    except SoftLabelsError as error:
        raise WireError(str(error)) from None
    if not (np.isfinite(confidence).all() and (confidence >= 0).all() and (confidence <= 2).all()):
        raise WireError("has a confidence outside 0..2; send the scores of teacher_scores")
    count, seconds = _value(answer, "examples", int), _value(answer, "seconds", float)
    if not 0 <= count <= 10**12 or not np.isfinite(seconds):
        raise WireError("has an example count or a time that is not a plausible number; send non-negative counts")
    claim = _claim(answer, asked=privacy.mechanism)
    reused = _value(answer, "reused", bool)
    return TrainReply(soft_labels, confidence, count, reused=reused, seconds=seconds, claim=claim)


def _claim(answer: ConfigRecord, *, asked: str) -> Claim:
    claim = Claim(_value(answer, "mechanism", str), _value(answer, "epsilon", float), _value(answer, "delta", float))
    if claim.mechanism != asked:
        raise WireError(f"claims mechanism {claim.mechanism[:20]!r}, expected {asked!r}; use the run's configuration")
    if not (claim.epsilon >= 0 and 0 <= claim.delta < 1 and (np.isinf(claim.epsilon) == (asked == "none"))):
        raise WireError("claims an epsilon or a delta that is none; send what the ledger composes")
    return claim


def pack_student(spec: str, state: ArrayRecord) -> RecordDict:
    """Pack the student, by its specification (JSON) and its trained arrays."""
    return RecordDict({STUDENT: state, ABOUT: ConfigRecord({"protocol": PROTOCOL, "spec": spec})})


def unpack_student(content: RecordDict) -> tuple[str, dict[str, np.ndarray]]:
    """Read the student's specification (JSON) and trained arrays."""
    about = _config(content, ABOUT, only={ABOUT, STUDENT})
    state = content.get(STUDENT)
    if not isinstance(state, ArrayRecord):
        raise WireError("the request holds no student; send its arrays")
    return _value(about, "spec", str), unpack_state(state)


def unpack_averaging_request(content: RecordDict) -> tuple[str, dict[str, np.ndarray], int]:
    """Read the student to train on private examples, as `unpack_student`, and the round."""
    spec, state = unpack_student(content)
    return spec, state, _value(_config(content, ABOUT), "server-round", int)


def pack_state(state: dict[str, np.ndarray]) -> ArrayRecord:
    """Pack the student's trained arrays."""
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in state.items()})


def unpack_state(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Read the student's trained arrays."""
    try:
        return {name: array.numpy() for name, array in record.items()}
    except Exception:
        raise WireError("the student's arrays cannot be read; send NumPy arrays") from None


def pack_parameters(state: dict[str, np.ndarray], *, examples: int, seconds: float) -> RecordDict:
    """Pack parameters trained on private examples; only federated averaging sends them."""
    return RecordDict({PARAMETERS: pack_state(state), TRAINING: MetricRecord({EXAMPLES: examples, "seconds": seconds})})


def check_parameters(content: RecordDict, *, expected: dict[str, np.ndarray]) -> tuple[int, float]:
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
    arrays, training = content.get(PARAMETERS), content.get(TRAINING)
    if set(content) != {PARAMETERS, TRAINING}:
        raise WireError("does not hold exactly the records parameters and training; use pack_parameters")
    if not isinstance(arrays, ArrayRecord) or set(arrays) != set(expected):
        raise WireError("does not hold exactly the student's arrays; train the student that was sent")
    for name, value in expected.items():
        if not np.isfinite(_array(arrays[name], shape=value.shape, dtype=value.dtype)).all():
            raise WireError("has parameters that are not finite; lower fedavg.learning-rate")
    if not isinstance(training, MetricRecord) or set(training) != {EXAMPLES, "seconds"}:
        raise WireError("does not say how many examples it trained on; use pack_parameters")
    examples, seconds = training[EXAMPLES], training["seconds"]
    if not (
        isinstance(examples, int) and 0 < examples <= 10**12 and isinstance(seconds, float) and 0 <= seconds < np.inf
    ):
        raise WireError("has an example count or a time that is not a plausible number; send positive counts")
    return examples, seconds


def pack_metrics(metrics: Metrics) -> RecordDict:
    """Pack the student's metrics on one private test split."""
    return RecordDict({METRICS: MetricRecord({**metrics.to_mapping()})})


def unpack_metrics(content: RecordDict) -> Metrics:
    """Read metrics and refuse values that no test split can give."""
    record = content.get(METRICS)
    if set(content) != {METRICS} or not isinstance(record, MetricRecord):
        raise WireError("does not hold exactly the record metrics; use pack_metrics")
    if set(record) != set(Metrics.__dataclass_fields__):
        raise WireError("does not hold exactly the metrics asked; use pack_metrics")
    values: dict[str, Any] = {
        name: value for name, value in record.items() if isinstance(value, int | float) and np.isfinite(value)
    }
    if len(values) != len(record) or min(values.values()) < 0:
        raise WireError("has a metric that is not a finite, non-negative number; check the client's evaluation")
    return Metrics(**{**values, "examples": int(values["examples"])})


def pack_refusal(reason: str) -> RecordDict:
    """Pack one sentence that holds no private content."""
    return RecordDict({REFUSAL: ConfigRecord({"reason": reason})})


def refusal_of(content: RecordDict) -> str | None:
    """Return the peer's refusal, cut to 500 printable characters, or None."""
    if REFUSAL not in content:
        return None
    record = content[REFUSAL]
    reason = record.get("reason") if isinstance(record, ConfigRecord) else None
    return "".join(letter for letter in str(reason)[:500] if letter.isprintable())


def count_bytes(content: RecordDict) -> int:
    """Count the payload of a message in bytes."""
    return sum(record.count_bytes() for record in content.values())


def canonical_labels(labels: LabelSpace) -> str:
    """Return the label space as the handshake compares it."""
    return json.dumps(json.loads(labels.to_json()), sort_keys=True)


def _config(content: RecordDict, key: str, only: set[str] | None = None) -> ConfigRecord:
    record = content.get(key)
    if not isinstance(record, ConfigRecord):
        raise WireError(f"has no record {key!r}; use the matching pack_ function")
    if only is not None and not set(content) <= only:
        raise WireError(f"has {len(set(content) - only)} record(s) that nobody asked for; send only {sorted(only)}")
    return record


_Value = TypeVar("_Value", int, str, float, bool)


def _value(record: ConfigRecord, key: str, kind: type[_Value]) -> _Value:
    value = record.get(key)
    if type(value) is not kind:
        raise WireError(f"{key} is a {type(value).__name__}, expected {kind.__name__}; use the matching pack_ function")
    return value


def _array(array: Array, *, shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT32) -> np.ndarray:
    expected = int(np.prod(shape)) * dtype.itemsize
    if len(array.data) > expected + HEADER_BYTES:
        raise WireError(f"holds {len(array.data)} bytes, expected {expected}; send {dtype} of shape {shape}")
    if array.dtype != str(dtype) or tuple(array.shape) != shape:
        raise WireError(f"is {str(array.dtype)[:20]} {tuple(array.shape)[:4]}, expected {dtype} {shape}; reshape it")
    try:
        values = array.numpy()
    except Exception:
        raise WireError(f"cannot be read as an array; send {dtype} of shape {shape}") from None
    if values.dtype != dtype or values.shape != shape:
        raise WireError(f"holds {values.dtype} {values.shape}, expected {dtype} {shape}; reshape it")
    return values
