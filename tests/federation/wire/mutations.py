"""Hostile messages: arbitrary records, and valid messages with a few things changed."""

import struct

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from knot_fed.federation.wire import envelope, exchange, student_wire

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
    """Return an array of an odd dtype or shape, in Fortran order, with foreign bytes, or with an odd NumPy header."""
    return draw.choice((odd_dtype, fortran_order, foreign_bytes, odd_header, odd_header))(draw)


def odd_dtype(draw):
    shape = draw.choice([(), (3,), (3, 5), (0, 2)])
    return Array(np.zeros(shape, draw.choice(["f4", "f8", "i8", "c8", ">f4", "?"])))


def fortran_order(draw):
    return Array(np.asfortranarray(np.full((3, 5), 0.2, np.float32)))


def foreign_bytes(draw):
    data = [b"", b"\x80\x04N.", b"PK\x03\x04", b"\x93NUMPY\x01\x00\xff\xff", draw.randbytes(draw.randrange(200))]
    return Array(draw.choice(DTYPES), draw.choice(SHAPES), draw.choice(STYPES), draw.choice(data))


def odd_header(draw):
    header = draw.choice(HEADERS).encode()
    version = bytes(draw.choice([(1, 0), (2, 0), (3, 0), (9, 9)]))
    body = b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header
    return Array("float32", (3, 5), "numpy.ndarray", body + draw.randbytes(draw.choice([0, 60, 61])))


def arbitrary_record(draw):
    keys = ["protocol", "round", "spec", "soft-labels", "confidence", "reason", "column-0", "column-1", "", "\0", "x"]
    chosen = draw.sample(keys, draw.randrange(4))
    kind = draw.choice((ConfigRecord, MetricRecord, ArrayRecord))
    return kind({key: value_for(draw, kind) for key in chosen})


def arbitrary_content(draw):
    names = [envelope.ABOUT, envelope.REFUSAL, exchange.TEXTS, exchange.ANSWER, exchange.SOFT_LABELS]
    names += [student_wire.METRICS, student_wire.STUDENT, "", "x"]
    return RecordDict({name: arbitrary_record(draw) for name in draw.sample(names, draw.randrange(4))})


def mutated(draw, content):
    """Change one to four things of a valid message."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        names = list(content)
        change = draw.choices((add_record, remove_record, move_record, mutate_record), weights=(1, 1, 1, 13))[0]
        if change is add_record or not names:
            add_record(draw, content, [*names, "gift", envelope.REFUSAL, envelope.ABOUT])
        else:
            change(draw, content, names)
    return content


def add_record(draw, content, names):
    content[draw.choice(names)] = arbitrary_record(draw)


def remove_record(draw, content, names):
    del content[draw.choice(names)]


def move_record(draw, content, names):
    content["moved"] = content.pop(draw.choice(names))


def mutate_record(draw, content, names):
    """Add, remove or change one value of a record."""
    record = content[draw.choice(names)]
    keys = list(record)
    if not keys or draw.random() < 0.15:
        record["gift"] = value_for(draw, type(record))
    elif draw.random() < 0.15:
        del record[draw.choice(keys)]
    elif isinstance(record, ArrayRecord):
        key = draw.choice(keys)
        record[key] = mutated_array(draw, record[key])
    else:
        record[draw.choice(keys)] = value_for(draw, type(record))


def value_for(draw, kind):
    """Return any value that a record of this kind may hold."""
    if kind is ArrayRecord:
        return arbitrary_array(draw)
    return draw.choice((*NUMBERS, [], [1], [1.5])) if kind is MetricRecord else draw.choice(SCALARS + LISTS)


def mutated_array(draw, array):
    """Replace the array, or one of its four parts."""
    dtype, shape, stype, data = array.dtype, array.shape, array.stype, bytes(array.data)
    part = draw.choices(("all", "dtype", "shape", "stype", "length", "bytes"), weights=(1, 1, 1, 1, 1, 2))[0]
    if part == "all":
        return arbitrary_array(draw)
    if part == "dtype":
        return Array(draw.choice(DTYPES), shape, stype, data)
    if part == "shape":
        return Array(dtype, draw.choice(SHAPES), stype, data)
    if part == "stype":
        return Array(dtype, shape, draw.choice(STYPES), data)
    return Array(dtype, shape, stype, (other_length if part == "length" else other_bytes)(draw, data))


def other_length(draw, data):
    return data[: draw.randrange(len(data) + 1)] + draw.randbytes(draw.choice([0, 0, 1, 500]))


def other_bytes(draw, data):
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 6) if data else 0):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)
