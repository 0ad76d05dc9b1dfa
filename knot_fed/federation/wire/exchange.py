"""The wire format of handshake, requests, transfer set and soft labels."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from knot_fed.config import MECHANISMS, MOST_DELTA, PrivacyConfig
from knot_fed.data.partition import CLIENT_NAME
from knot_fed.data.transfer_set import MOST_TEXTS, TransferSet, check_sendable, excess, first_rows
from knot_fed.errors import ConfigError, SoftLabelsError, WireError
from knot_fed.federation.wire import checks
from knot_fed.federation.wire.answer_arrays import CONFIDENCE, ROWS, AnswerArrays, array_names, read_arrays
from knot_fed.federation.wire.envelope import ABOUT, PROTOCOL, check_protocol, pack_arrays
from knot_fed.federation.wire.student_wire import STUDENT, check_spec
from knot_fed.labels import LabelSpace, check_soft_labels
from knot_fed.privacy.compression import decompress
from knot_fed.types import MEAN, TeacherAnswer, Text

TEXTS = "texts"
ANSWER = "answer"
SOFT_LABELS = "soft-labels"
START = "start"
REQUEST = {ABOUT, TEXTS, STUDENT, START}
COLUMNS = ("column-0", "column-1")
CLAIM = {"mechanism": str, "epsilon": float, "delta": float}
LARGEST_CONFIDENCE = 2.0
LARGEST_EPSILON = 1e6
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Handshake:
    """What both sides compare before any training: protocol, labels, transfer set, and the client's name."""

    protocol: int
    labels: str
    fingerprint: str
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SentStudent:
    """The student as it goes down: its specification (JSON), and its trained arrays for `student_wire.unpack_state`."""

    spec: str
    arrays: ArrayRecord


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """A slice of the transfer set to label, with the texts if the client does not hold them yet.

    `student` is the start of teachers, if the run's configuration lets them start from it. `held` is the digest of this
    client's last answer for the same rows, if the server holds it and takes changes to it (`HeldRows.digest`).
    """

    round: int
    fingerprint: str
    start: int
    stop: int
    transfer: TransferSet | None = None
    student: SentStudent | None = None
    held: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """The guarantee that a client reports for its answers in this run so far; without one epsilon is infinite."""

    mechanism: str
    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainReply:
    """One teacher's answer for the requested slice, and whether its teacher was loaded.

    A reply that the server has read also has its `arrays` as the wire carries a whole answer, and the number of rows
    that came with it.
    """

    answer: TeacherAnswer
    reused: bool
    seconds: float
    claim: Claim
    arrays: AnswerArrays = field(default_factory=dict)
    rows_sent: int = 0


def pack_handshake(handshake: Handshake) -> RecordDict:
    """Pack either side of the handshake."""
    names = ("protocol", "labels", "name", "fingerprint")
    return RecordDict({ABOUT: ConfigRecord({name: getattr(handshake, name) for name in names})})


def unpack_handshake(content: RecordDict) -> Handshake:
    """Read either side of the handshake; `check_handshake` checks the values."""
    kinds = {"protocol": int, "labels": str, "fingerprint": str, "name": str}
    return Handshake(**checks.read_values(content, ABOUT, kinds, records={ABOUT}))


def check_handshake(ours: Handshake, theirs: Handshake) -> None:
    """Refuse a peer with another protocol, label space or transfer set, or with an invalid fingerprint or name."""
    check_protocol(theirs.protocol)
    if theirs.labels != ours.labels:
        found = checks.cut_printable(theirs.labels, 200)
        raise WireError(f"has labels {found}, expected {ours.labels[:200]}; agree on one label space")
    if theirs.fingerprint:
        _check_fingerprint(theirs.fingerprint)
    if theirs.fingerprint and ours.fingerprint and theirs.fingerprint != ours.fingerprint:
        raise WireError(
            f"holds transfer set {checks.cut_printable(theirs.fingerprint, 12)}, expected {ours.fingerprint[:12]};"
            " give it the server's file"
        )
    if theirs.name and not CLIENT_NAME.fullmatch(theirs.name):
        raise WireError("has a name that is not 1 to 64 letters, digits, dots, dashes or underscores; rename the node")
    if theirs.name == MEAN:
        raise WireError(f"is called {MEAN}, as the mean over all clients is in every table; rename the node")


def pack_train_request(request: TrainRequest) -> RecordDict:
    """Pack one round's request to a client; raises ConfigError, with the remedy, if no message can carry it."""
    if request.stop > MOST_TEXTS:
        raise ConfigError(f"{request.stop} transfer texts, of which clients label {MOST_TEXTS} at most; set data.limit")
    about = ConfigRecord({"protocol": PROTOCOL, "round": request.round, "start": request.start, "stop": request.stop})
    about.update({"fingerprint": request.fingerprint, "held": request.held})
    content = RecordDict({ABOUT: about})
    if request.transfer is not None:
        check_sendable(request.transfer, name="the transfer set")
        content[TEXTS] = pack_transfer_set(request.transfer)
    if request.student is not None:
        content[STUDENT], content[START] = request.student.arrays, ConfigRecord({"spec": request.student.spec})
    return content


def unpack_train_request(content: RecordDict) -> TrainRequest:
    """Read the request, and compare the texts, if there are any, with their fingerprint."""
    kinds = {"protocol": int, "round": int, "fingerprint": str, "start": int, "stop": int, "held": str}
    about = checks.read_values(content, ABOUT, kinds, records=REQUEST)
    check_protocol(about.pop("protocol"))
    texts = checks.read_record(content, TEXTS, ConfigRecord, records=REQUEST) if TEXTS in content else None
    transfer = None if texts is None else unpack_transfer_set(texts)
    request = TrainRequest(**about, transfer=transfer, student=_sent_student(content))
    _check_fingerprint(request.fingerprint)
    if request.held and not _FINGERPRINT.fullmatch(request.held):
        raise WireError("names the answer that it holds by something that is not a SHA-256; use HeldRows.digest")
    if not 0 < request.round <= MOST_TEXTS:
        raise WireError(f"asks in round {request.round}, expected 1 to {MOST_TEXTS}; count rounds from 1")
    if not 0 <= request.start < request.stop <= MOST_TEXTS:
        raise WireError(f"asks for rows that are not a slice of 1 to {MOST_TEXTS} texts; ask for a non-empty slice")
    if request.transfer is not None and request.transfer.fingerprint != request.fingerprint:
        raise WireError("the transfer texts do not have the fingerprint that the server names; send them again")
    return request


def _sent_student(content: RecordDict) -> SentStudent | None:
    if STUDENT not in content and START not in content:
        return None
    spec: str = checks.read_values(content, START, {"spec": str}, records=REQUEST)["spec"]
    check_spec(spec)
    return SentStudent(spec, checks.read_record(content, STUDENT, ArrayRecord, records=REQUEST))


def _check_fingerprint(fingerprint: str) -> None:
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise WireError("names its transfer set by something that is not a SHA-256; use TransferSet.fingerprint")


def pack_transfer_set(transfer: TransferSet) -> ConfigRecord:
    """Pack ordered texts; pairs are sent as two lists."""
    return ConfigRecord(dict(zip(COLUMNS, transfer.columns(), strict=False)))


def unpack_transfer_set(record: ConfigRecord) -> TransferSet:
    """Read ordered, distinct texts; raises WireError if they exceed the bounds on their number and length."""
    if set(record) not in ({COLUMNS[0]}, set(COLUMNS)):
        raise WireError("the transfer texts are not one column or two; send them again")
    columns = [_texts(record[name]) for name in COLUMNS if name in record]
    if len({len(column) for column in columns}) > 1:
        raise WireError(f"{len(columns[0])} first texts and {len(columns[1])} second ones; send pairs")
    rows: tuple[Text, ...] = tuple(zip(*columns, strict=True)) if len(columns) > 1 else tuple(columns[0])
    transfer = TransferSet(rows)
    if len(first_rows(transfer.keys)) < len(rows):
        raise WireError("the transfer texts repeat a text, which would count it twice; send distinct_texts")
    return transfer


def _texts(column: object) -> list[str]:
    if not isinstance(column, list) or not all(isinstance(text, str) for text in column):
        raise WireError("the transfer texts are not lists of strings; send them again")
    if not column:
        raise WireError(f"0 transfer texts, expected 1 to {MOST_TEXTS}; send some")
    too_much = excess(column)
    if too_much:
        raise WireError(f"transfer texts: {too_much}; send fewer or shorter ones")
    return column


def pack_soft_labels(reply: TrainReply, arrays: AnswerArrays, *, round_number: int) -> RecordDict:
    """Pack one teacher's answer as these arrays, of all rows or of those that changed; nothing else is sent."""
    about = ConfigRecord({"protocol": PROTOCOL, "round": round_number, "examples": reply.answer.examples})
    about.update({"reused": reply.reused, "seconds": reply.seconds, **asdict(reply.claim)})
    return RecordDict({SOFT_LABELS: pack_arrays(arrays), ANSWER: about})


def unpack_soft_labels(
    content: RecordDict,
    *,
    round_number: int,
    examples: int,
    labels: LabelSpace,
    privacy: PrivacyConfig,
    scored: bool,
    held: AnswerArrays | None = None,
) -> TrainReply:
    """Read one teacher's answer, and refuse anything but distributions of the shape and mechanism requested.

    A reply to a request that named the answer `held` may have changed rows only. `scored` states whether the weighting
    scheme reads scores; without it, they are 0.
    """
    records = {ANSWER, SOFT_LABELS}
    kinds = {"protocol": int, "round": int, "examples": int, "reused": bool, "seconds": float, **CLAIM}
    answer = checks.read_values(content, ANSWER, kinds, records=records)
    check_protocol(answer["protocol"])
    if answer["round"] != round_number:
        raise WireError(f"answers another round than {round_number}; drop the old reply")
    changes = held is not None and ROWS in content.get(SOFT_LABELS, ())
    keys = array_names(privacy, changes=changes)
    record = checks.read_record(content, SOFT_LABELS, ArrayRecord, records=records, keys=keys)
    arrays, sent = read_arrays(
        record, examples=examples, classes=len(labels), privacy=privacy, scored=scored, held=held if changes else None
    )
    try:
        soft_labels = decompress(arrays, privacy.compression, classes=len(labels))
        check_soft_labels(soft_labels)
    except SoftLabelsError as error:
        raise WireError(str(error)) from None
    confidence = arrays[CONFIDENCE] if scored else np.zeros(examples, dtype=np.float32)
    if not ((confidence >= 0) & (confidence <= LARGEST_CONFIDENCE)).all():
        raise WireError(f"has a confidence outside 0..{LARGEST_CONFIDENCE:g}; send the scores of teacher_scores")
    return TrainReply(
        TeacherAnswer(soft_labels, confidence, checks.check_count(answer["examples"], least=0)),
        reused=answer["reused"],
        seconds=checks.check_seconds(answer["seconds"]),
        claim=read_claim(answer, asked=privacy.mechanism),
        arrays=arrays,
        rows_sent=sent,
    )


def read_claim(answer: Mapping[str, Any], *, asked: str) -> Claim:
    """Read the guarantee that a client reports, which must be of the configured mechanism."""
    mechanism, epsilon, delta = (answer[key] for key in CLAIM)
    if mechanism != asked:
        raise WireError(
            f"claims mechanism {checks.cut_printable(mechanism, 20)!r}, expected {asked!r}; use the run's configuration"
        )
    bounded = 0 <= epsilon <= LARGEST_EPSILON if MECHANISMS[asked].has_guarantee else epsilon == np.inf
    if not (bounded and 0 <= delta <= MOST_DELTA):
        raise WireError("claims an epsilon or a delta out of range; send what the ledger composes")
    return Claim(mechanism, epsilon, delta)


def canonical_labels(labels: LabelSpace) -> str:
    """Return the label space as canonical JSON, which the handshake compares."""
    return json.dumps(json.loads(labels.to_json()), sort_keys=True)
