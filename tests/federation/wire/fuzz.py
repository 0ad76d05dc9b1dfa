"""Mutated inputs against everything that reads a peer's: `python -m tests.federation.wire.fuzz --examples 200000`.

No message may raise anything but WireError (ModelError for what a specification says), no line of a log anything, and
no damaged ledger may count too little.
"""

import argparse
import logging
import random
import struct
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import ModelError, WireError
from knot_fed.federation.wire import envelope, exchange, student_wire
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec
from knot_fed.types import Metrics, TeacherAnswer
from tests.conftest import small_config
from tests.federation.wire import fuzz_lines
from tests.privacy import fuzz_ledger

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
NOISY = replace(REPLY, claim=exchange.Claim("gaussian", 8.0, 1e-5))
PLAIN = small_config(Path(), {}).privacy
COMPRESSED = [PLAIN.model_copy(update={"compression": name}) for name in ("float16", "uint8", "top-k", "hard")]
GAUSSIAN = PLAIN.model_copy(update={"mechanism": "gaussian"})
SPEC = ModelSpec("tiny-bert", "all", LABELS.names, paired=False, max_length=16, vocabulary=("[PAD]", "a")).to_json()


def averaging_request():
    about = {"protocol": envelope.PROTOCOL, "spec": SPEC, student_wire.ROUND_OF_FLOWER: 1}
    return RecordDict({student_wire.STUDENT: envelope.pack_arrays(STATE), envelope.ABOUT: ConfigRecord(about)})


def read_handshake(content):
    exchange.check_handshake(OURS, exchange.unpack_handshake(content))


def soft_labels(reply, privacy):
    return (
        lambda: exchange.pack_soft_labels(reply, round_number=2, privacy=privacy),
        lambda content: exchange.unpack_soft_labels(
            content, round_number=2, examples=3, labels=LABELS, privacy=privacy
        ),
    )


def read_student(content):
    spec, arrays, _ = student_wire.unpack_student(content)
    ModelSpec.from_json(spec)
    student_wire.unpack_state(arrays, expected=STATE)


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
    "request-of-pairs": (
        lambda: exchange.pack_train_request(exchange.TrainRequest(1, PAIRS.fingerprint, 0, 2, PAIRS)),
        exchange.unpack_train_request,
    ),
    "soft-labels": soft_labels(REPLY, PLAIN),
    "noisy-soft-labels": soft_labels(NOISY, GAUSSIAN),
    **{f"soft-labels-{privacy.compression}": soft_labels(REPLY, privacy) for privacy in COMPRESSED},
    "student": (lambda: student_wire.pack_student(SPEC, envelope.pack_arrays(STATE)), read_student),
    "averaging": (averaging_request, read_averaging_request),
    "parameters": (
        lambda: student_wire.pack_parameters(STATE, examples=9, seconds=0.5),
        lambda content: student_wire.check_parameters(content, expected=STATE),
    ),
    "metrics": (
        lambda: student_wire.pack_metrics(Metrics(0.5, 0.55, 0.6, 0.7, 0.8, 0.1, 20)),
        lambda content: student_wire.unpack_metrics(content, labels=LABELS),
    ),
    "refusal": (lambda: envelope.pack_refusal("no"), envelope.refusal_of),
}
OTHERS = fuzz_lines.TARGETS | fuzz_ledger.TARGETS
NAMES = (*TARGETS, *OTHERS)
SCALARS = (
    0, 1, -1, 2**31, 2**63 - 1, -(2**63), True, False, 0.0, -0.0, 1.5, -1.0, 1e38, 1e308, float("nan"), float("inf"),
    "", "a", "../../x", "\0", "\x1b[31m", "[/bold]", "\u202e", "x" * 3000, "{}", "[]", "null", "[" * 3000,
    '{"labels": 3, "vocabulary": []}', b"", b"\x80\x04N.", b"\x93NUMPY",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31, 2**63 - 1, -(2**63), 0.0, -1.5, 1e38, float("nan"), float("inf"))
LISTS = ([], [1, 2], [1.5], ["a"], [""], [b""], [True], ["one", "two", "three"], [0.0] * 300)
DTYPES = ("float32", "float64", "int64", "object", ">f4", "complex64", "U3", "", "V8", "float16", "bool", "\x1b[0m")
STYPES = ("numpy.ndarray", "pickle", "", "torch.Tensor", "numpy.ndarray ", "x" * 500)
SHAPES = ((), (0,), (3,), (3, 5), (5, 3), (-1,), (2**40, 2**40), (3, 5, 1), (1,) * 40, (10**30,))
HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3, 5), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 5), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 5), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 5), }",
    "(" * 200, "-" * 200 + "1", "{}", "\0" * 50, "__import__('os')",
)  # fmt: skip


def arbitrary_array(draw):
    kind = draw.randrange(5)
    if kind == 0:
        return Array(
            np.zeros(draw.choice([(), (3,), (3, 5), (0, 2)]), draw.choice(["f4", "f8", "i8", "c8", ">f4", "?"]))
        )
    if kind == 1:
        return Array(np.asfortranarray(np.full((3, 5), 0.2, np.float32)))
    data = [b"", b"\x80\x04N.", b"PK\x03\x04", b"\x93NUMPY\x01\x00\xff\xff", draw.randbytes(draw.randrange(200))]
    if kind == 2:
        return Array(draw.choice(DTYPES), draw.choice(SHAPES), draw.choice(STYPES), draw.choice(data))
    header = draw.choice(HEADERS).encode()
    body = b"\x93NUMPY" + bytes(draw.choice([(1, 0), (2, 0), (3, 0), (9, 9)])) + struct.pack("<H", len(header)) + header
    return Array("float32", (3, 5), "numpy.ndarray", body + draw.randbytes(draw.choice([0, 60, 61])))


def arbitrary_record(draw):
    kind = draw.randrange(3)
    keys = ["protocol", "round", "spec", "soft-labels", "confidence", "reason", "column-0", "column-1", "", "\0", "x"]
    chosen = draw.sample(keys, draw.randrange(4))
    if kind == 0:
        return ConfigRecord({key: draw.choice(SCALARS + LISTS) for key in chosen})
    if kind == 1:
        return MetricRecord({key: draw.choice(NUMBERS) for key in chosen})
    return ArrayRecord({key: arbitrary_array(draw) for key in chosen})


def arbitrary_content(draw):
    names = [
        envelope.ABOUT,
        exchange.TEXTS,
        exchange.ANSWER,
        exchange.SOFT_LABELS,
        student_wire.METRICS,
        envelope.REFUSAL,
        student_wire.STUDENT,
        "",
        "x",
    ]
    return RecordDict({name: arbitrary_record(draw) for name in draw.sample(names, draw.randrange(4))})


def mutated(draw, content):
    """Change one to four things of a valid message."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        names = list(content)
        step = draw.randrange(16)
        if step == 0 or not names:
            content[draw.choice([*names, "gift", envelope.REFUSAL, envelope.ABOUT])] = arbitrary_record(draw)
        elif step == 1:
            del content[draw.choice(names)]
        elif step == 2:
            content["moved"] = content.pop(draw.choice(names))
        else:
            mutate_record(draw, content[draw.choice(names)])
    return content


def mutate_record(draw, record):
    keys = list(record)
    if not keys or draw.random() < 0.15:
        record["gift"] = any_value(draw, record)
    elif draw.random() < 0.15:
        del record[draw.choice(keys)]
    elif isinstance(record, ArrayRecord):
        key = draw.choice(keys)
        record[key] = mutated_array(draw, record[key])
    else:
        record[draw.choice(keys)] = any_value(draw, record)


def any_value(draw, record):
    if isinstance(record, ArrayRecord):
        return arbitrary_array(draw)
    return draw.choice((*NUMBERS, [], [1], [1.5])) if isinstance(record, MetricRecord) else draw.choice(SCALARS + LISTS)


def mutated_array(draw, array):
    data, step = bytearray(array.data), draw.randrange(7)
    if step == 0:
        return arbitrary_array(draw)
    if step == 1:
        return Array(draw.choice(DTYPES), array.shape, array.stype, bytes(data))
    if step == 2:
        return Array(array.dtype, draw.choice(SHAPES), array.stype, bytes(data))
    if step == 3:
        return Array(array.dtype, array.shape, draw.choice(STYPES), bytes(data))
    if step == 4:
        data = data[: draw.randrange(len(data) + 1)] + draw.randbytes(draw.choice([0, 0, 1, 500]))
    else:
        for _ in range(draw.randrange(1, 6)):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
    return Array(array.dtype, array.shape, array.stype, bytes(data))


def attempt(name, draw):
    """Read one hostile input; returns what came of it, and lets any other exception through."""
    if name in OTHERS:
        return OTHERS[name](draw)
    build, read = TARGETS[name]
    content = arbitrary_content(draw) if draw.random() < 0.1 else mutated(draw, build())
    envelope.count_bytes(content)
    try:
        read(content)
    except (WireError, ModelError) as error:
        if str(error).isprintable() and len(str(error)) < 2000:
            return "refused"
        raise AssertionError("an error that is too long, or that a terminal would act on") from error
    return "read"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    counts, failures, started = Counter(), 0, time.monotonic()
    for number in range(options.examples):
        name = NAMES[number % len(NAMES)]
        try:
            counts[name, attempt(name, random.Random(options.seed + number))] += 1
        except Exception:
            failures += 1
            sys.stderr.write(f"{name}, seed {options.seed + number}:\n{traceback.format_exc()}\n")
    for name in NAMES:
        sys.stdout.write(f"{name:18} refused {counts[name, 'refused']:7}   still valid {counts[name, 'read']:7}\n")
    seconds = time.monotonic() - started
    sys.stdout.write(f"{options.examples} inputs in {seconds:.0f} s, {failures} raised anything but their own error\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
