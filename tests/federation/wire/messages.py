"""One valid message of each kind with its reader, by name: what the fuzz mutates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.wire import envelope, exchange, personal_wire, student_wire
from knot_fed.federation.wire.answer_arrays import HeldRows, answer_arrays, take_rows
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec
from knot_fed.types import Metrics, TeacherAnswer
from tests.conftest import small_config

LABELS = LabelSpace.preset("sentiment")
TRANSFER = TransferSet(("one", "two", "three"))
PAIRS = TransferSet((("one", "two"), ("three", "")))
STATE = {
    "head.weight": np.ones((5, 4), np.float32),
    "steps": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
    "half": np.ones(3, np.float16),
}
OURS = exchange.Handshake(envelope.PROTOCOL, exchange.canonical_labels(LABELS), TRANSFER.fingerprint, "phones")
ROWS = np.full((3, 5), 0.2, np.float32)
CLAIM = exchange.Claim("none", float("inf"), 0.0)
REPLY = exchange.TrainReply(TeacherAnswer(ROWS, np.ones(3, np.float32), 9), reused=False, seconds=0.5, claim=CLAIM)
HELD = HeldRows.of({}, fingerprint=TRANSFER.fingerprint, rows=range(3))
NOISY = replace(REPLY, claim=exchange.Claim("gaussian", 8.0, 1e-5))
PLAIN = small_config(Path(), {}).privacy
COMPRESSED = [PLAIN.model_copy(update={"compression": name}) for name in ("float16", "uint8", "top-k", "hard")]
GAUSSIAN = PLAIN.model_copy(update={"mechanism": "gaussian"})
CONSENSUS = personal_wire.ConsensusRequest(
    exchange.TrainRequest(1, TRANSFER.fingerprint, 0, 3, TRANSFER), ROWS[:2], np.array([0, 2], np.uint32), LABELS
)
MEASURED = Metrics(0.5, 0.55, 0.6, 0.7, 0.8, 0.1, 20)
SPEC = ModelSpec("tiny-bert", "all", LABELS.names, paired=False, max_length=16, vocabulary=("[PAD]", "a")).to_json()


def averaging_request():
    about = {"protocol": envelope.PROTOCOL, "spec": SPEC, student_wire.ROUND_OF_FLOWER: 1}
    return RecordDict({student_wire.STUDENT: envelope.pack_arrays(STATE), envelope.ABOUT: ConfigRecord(about)})


def read_handshake(content):
    exchange.check_handshake(OURS, exchange.unpack_handshake(content))


def soft_labels(reply, privacy, *, scored=True, changed=None):
    """Without `changed` the whole answer; else these rows of it, to a server that holds the answer."""
    whole = answer_arrays(reply.answer, privacy=privacy, scored=scored)
    sent = whole if changed is None else take_rows(whole, np.array(changed, np.uint32))
    return (
        lambda: exchange.pack_soft_labels(reply, sent, round_number=2),
        lambda content: exchange.unpack_soft_labels(
            content, round_number=2, examples=3, labels=LABELS, privacy=privacy, scored=scored,
            held=None if changed is None else whole,
        ),
    )  # fmt: skip


def read_student(content):
    spec, arrays, _ = student_wire.unpack_student(content)
    ModelSpec.from_json(spec)
    student_wire.unpack_state(arrays, expected=STATE)


def read_request_with_student(content):
    sent = exchange.unpack_train_request(content).student
    if sent is not None:
        ModelSpec.from_json(sent.spec)
        student_wire.unpack_state(sent.arrays, expected=STATE)


def read_measured_student(content):
    read_student(content)
    student_wire.unpack_geometry(content, names=LABELS.names)


def read_averaging_request(content):
    spec, arrays, _ = student_wire.unpack_averaging_request(content)
    ModelSpec.from_json(spec)
    student_wire.unpack_state(arrays, expected=STATE)


TARGETS = {
    "handshake": (lambda: exchange.pack_handshake(OURS), read_handshake),
    "request": (
        lambda: exchange.pack_train_request(exchange.TrainRequest(1, TRANSFER.fingerprint, 0, 3, TRANSFER)),
        exchange.unpack_train_request,
    ),
    "request-with-student": (
        lambda: exchange.pack_train_request(
            exchange.TrainRequest(
                1, TRANSFER.fingerprint, 0, 3, student=exchange.SentStudent(SPEC, envelope.pack_arrays(STATE))
            )
        ),
        read_request_with_student,
    ),
    "request-for-changes": (
        lambda: exchange.pack_train_request(exchange.TrainRequest(2, TRANSFER.fingerprint, 0, 3, held=HELD.digest)),
        exchange.unpack_train_request,
    ),
    "request-of-pairs": (
        lambda: exchange.pack_train_request(exchange.TrainRequest(1, PAIRS.fingerprint, 0, 2, PAIRS)),
        exchange.unpack_train_request,
    ),
    "soft-labels": soft_labels(REPLY, PLAIN),
    "noisy-soft-labels": soft_labels(NOISY, GAUSSIAN),
    **{f"soft-labels-{privacy.compression}": soft_labels(REPLY, privacy) for privacy in COMPRESSED},
    "unscored-soft-labels": soft_labels(REPLY, PLAIN, scored=False),
    "changed-soft-labels": soft_labels(REPLY, PLAIN, changed=[0, 2]),
    "changed-soft-labels-top-k": soft_labels(REPLY, COMPRESSED[2], changed=[1], scored=False),
    "student": (lambda: student_wire.pack_student(SPEC, envelope.pack_arrays(STATE)), read_student),
    "student-with-geometry": (
        lambda: student_wire.pack_student(SPEC, envelope.pack_arrays(STATE), geometry=LABELS),
        read_measured_student,
    ),
    "averaging": (averaging_request, read_averaging_request),
    "parameters": (
        lambda: student_wire.pack_parameters(STATE, examples=9, seconds=0.5),
        lambda content: student_wire.check_parameters(content, expected=STATE),
    ),
    "metrics": (
        lambda: student_wire.pack_metrics(MEASURED),
        lambda content: student_wire.unpack_metrics(content, labels=LABELS),
    ),
    "consensus": (
        lambda: personal_wire.pack_consensus(CONSENSUS),
        lambda content: personal_wire.unpack_consensus(content, labels=LABELS),
    ),
    "personal-metrics": (
        lambda: personal_wire.pack_reply(personal_wire.PersonalReply(MEASURED, MEASURED), round_number=1),
        lambda content: personal_wire.unpack_reply(content, round_number=1, labels=LABELS),
    ),
    "refusal": (lambda: envelope.pack_refusal("no"), envelope.refusal_of),
}
