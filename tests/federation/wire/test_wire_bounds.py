"""No number from a peer is read without both ends, whatever message it comes in."""

import math

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from knot_fed.errors import ModelError, WireError
from knot_fed.federation.wire import envelope, exchange, student_wire
from knot_fed.models import ModelSpec
from tests.federation.secure.test_sum_wire import MESSAGES, copy
from tests.federation.wire import messages

READERS = {
    **{name: (build, read) for name, (build, read) in messages.TARGETS.items() if name != "refusal"},
    **{name: (lambda content=content: copy(content), read) for name, (content, read) in MESSAGES.items()},
}
EXTREMES = {int: (2**63 - 1, -(2**63), 2**40, -1), float: (1e308, -1e308, math.nan, math.inf, -math.inf, 1e12, -1.0)}


def numbers(content):
    """Name every number of a message: record, key, and place where it stands in a list."""
    for name, record in content.items():
        for key, value in () if isinstance(record, ArrayRecord) else record.items():
            for place, one in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if type(one) in EXTREMES:
                    yield name, key, place, one


def with_number(content, name, key, place, value):
    content[name][key] = (
        value if place is None else [*content[name][key][:place], value, *content[name][key][place + 1 :]]
    )
    return content


CASES = [(name, *number) for name, (build, _) in READERS.items() for number in numbers(build())]


@pytest.mark.parametrize(("message", "name", "key", "place", "now"), CASES)
def test_every_number_of_a_message_has_two_ends(message, name, key, place, now):
    build, read = READERS[message]
    for value in EXTREMES[type(now)]:
        if value != now:
            with pytest.raises(WireError):
                read(with_number(build(), name, key, place, value))


def test_every_kind_of_message_with_numbers_is_among_them():
    assert {message for message, *_ in CASES} == set(READERS)


@pytest.mark.parametrize("fingerprint", ["", "a" * 63, "A" * 64, "../../x", "a" * 2_000_000])
def test_a_request_names_its_transfer_set_by_a_digest(fingerprint):
    request = exchange.pack_train_request(exchange.TrainRequest(1, fingerprint, 0, 3))
    with pytest.raises(WireError, match="not a SHA-256"):
        exchange.unpack_train_request(request)


@pytest.mark.parametrize("round_number", [0, -1, 10**7])
def test_a_round_of_averaging_seeds_no_generator_unless_it_is_one(round_number):
    about = {"protocol": envelope.PROTOCOL, "spec": messages.SPEC, student_wire.ROUND_OF_FLOWER: round_number}
    content = RecordDict({student_wire.STUDENT: ArrayRecord(), envelope.ABOUT: ConfigRecord(about)})
    with pytest.raises(WireError, match="expected 1 to 1000000; count rounds from 1"):
        student_wire.unpack_averaging_request(content)


@pytest.mark.parametrize(
    ("coordinates", "said"),
    [
        (np.zeros((5, 0)), "are not rows of 1 to 4 numbers"),
        (np.zeros((5, 5)), "are not rows of 1 to 4 numbers"),
        (np.zeros(5), "are not rows of 1 to 4 numbers"),
        (np.zeros((4, 1)), r"expected float64 \(5, 1\)"),
        (np.zeros((5, 1), np.float32), "expected float64"),
        (np.full((5, 1), np.nan), "not all finite"),
        (np.full((5, 1), 1e7), "beyond 1e.06"),
    ],
)
def test_a_geometry_is_as_many_finite_points_as_there_are_labels(coordinates, said):
    content = student_wire.pack_student(messages.SPEC, ArrayRecord())
    assert student_wire.unpack_geometry(content, names=messages.LABELS.names) is None
    content[student_wire.GEOMETRY] = envelope.pack_arrays({student_wire.COORDINATES: coordinates})
    with pytest.raises(WireError, match=said):
        student_wire.unpack_geometry(content, names=messages.LABELS.names)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e9, float("nan")])
def test_a_student_is_measured_at_no_temperature_out_of_range(temperature):
    with pytest.raises(WireError, match=r"temperature outside 0\.05\.\.20; send what fit_temperature returns"):
        student_wire.unpack_student(student_wire.pack_student(messages.SPEC, ArrayRecord(), temperature=temperature))


@pytest.mark.parametrize(
    "field", ['"max_length": 1e999', '"max_length": -5', '"max_length": true', '"max_length": 9000']
)
def test_a_specification_reads_a_whole_number_of_tokens_within_bounds(field):
    with pytest.raises(ModelError):
        ModelSpec.from_json(messages.SPEC.replace('"max_length": 16', field))


def test_a_specification_names_its_model_in_few_letters():
    with pytest.raises(ModelError, match="more than 4096 characters"):
        ModelSpec.from_json(messages.SPEC.replace("tiny-bert", "t" * 5000))
