from contextlib import suppress

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from knot_fed.errors import WireError
from knot_fed.federation.secure import sum_wire
from knot_fed.federation.secure.key_agreement import PUBLIC_BYTES, SECRET_SHARE_BYTES, SEED_SHARE_BYTES
from knot_fed.federation.secure.peer import KeyList
from knot_fed.federation.wire import exchange

WORD = np.dtype("<u8")
KEYS = KeyList(2, 2, (bytes(PUBLIC_BYTES),) * 3, (bytes(PUBLIC_BYTES),) * 3)
VALUES_MASKED = np.arange(8, dtype=WORD).reshape(2, 4)
CLAIM = exchange.Claim("dp-sgd", 8.0, 1e-5)
ANSWER = sum_wire.MaskedAnswer(VALUES_MASKED, bytes(32), reused=True, seconds=0.5, claim=CLAIM)
REQUEST = exchange.TrainRequest(2, "f" * 64, 0, 2)
REVEALED = [bytes(SEED_SHARE_BYTES), bytes(SECRET_SHARE_BYTES), b""]
MESSAGES = {
    "keys request": (sum_wire.pack_keys_request(2), sum_wire.unpack_keys_request),
    "keys": (
        sum_wire.pack_keys(2, (bytes(PUBLIC_BYTES), bytes(PUBLIC_BYTES))),
        lambda content: sum_wire.unpack_keys(content, round_number=2),
    ),
    "shares request": (sum_wire.pack_shares_request(KEYS, place=1), sum_wire.unpack_shares_request),
    "sealed": (
        sum_wire.pack_sealed(2, [b"x" * 300, b"", b"x" * 300]),
        lambda content: sum_wire.unpack_sealed(content, round_number=2, clients=3, place=1),
    ),
    "masked request": (sum_wire.pack_masked_request(REQUEST, [b"x" * 300, b"", b"x"]), sum_wire.unpack_masked_request),
    "masked": (
        sum_wire.pack_masked(2, ANSWER),
        lambda content: sum_wire.unpack_masked(
            content, round_number=2, texts=2, columns=4, word=WORD, mechanism="dp-sgd"
        ),
    ),
    "unmask request": (sum_wire.pack_unmask_request(2, [0, 2]), sum_wire.unpack_unmask_request),
    "revealed": (
        sum_wire.pack_revealed(2, REVEALED),
        lambda content: sum_wire.unpack_revealed(content, round_number=2, survivors={0}, members={0, 1}, clients=3),
    ),
}
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=100),
    st.booleans(),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    st.lists(st.binary(max_size=80), max_size=4),
    st.lists(st.text(max_size=3), max_size=3),
)


def copy(content):
    return RecordDict({key: ConfigRecord(dict(record)) for key, record in content.items()})


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_packed_is_read(name):
    content, unpack = MESSAGES[name]
    unpack(copy(content))


def test_masked_values_arrive_unchanged():
    content, unpack = MESSAGES["masked"]
    read = unpack(content)
    assert (read.masked == ANSWER.masked).all()
    assert (read.commitment, read.reused, read.seconds, read.claim) == (ANSWER.commitment, True, 0.5, CLAIM)


@pytest.mark.parametrize("name", MESSAGES)
@settings(max_examples=150)
@given(data=st.data())
def test_an_altered_message_raises_nothing_but_a_wire_error(name, data):
    content, unpack = MESSAGES[name]
    altered = copy(content)
    for _ in range(data.draw(st.integers(1, 3))):
        record = altered[data.draw(st.sampled_from(sorted(altered)))]
        key = data.draw(st.one_of(st.sampled_from(sorted(record) or ["round"]), st.text(max_size=5)))
        if key in record and data.draw(st.booleans()):
            del record[key]
        else:
            record[key] = data.draw(VALUES)
    if data.draw(st.integers(0, 9)) == 0:
        altered["gift"] = MetricRecord({"loss": 1.0})
    with suppress(WireError):
        unpack(altered)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_another_stage_is_refused(name):
    _, unpack = MESSAGES[name]
    for other, (content, _) in MESSAGES.items():
        if other != name:
            with pytest.raises(WireError):
                unpack(copy(content))


@pytest.mark.parametrize(
    ("name", "key", "value", "reason"),
    [
        ("keys", "round", 3, "answers round 3, expected 2"),
        ("keys", "protocol", 9, "speaks protocol 9"),
        ("keys", "seal_key", b"short", "keys of other than 49 bytes"),
        ("masked", "masked", bytes(63), "63 bytes of masked values, expected 64"),
        ("masked", "masked", bytes(2**20), "1048576 bytes of masked values, expected 64"),
        ("masked", "seconds", float("nan"), "not a plausible number"),
        ("masked", "mechanism", "none", "claims mechanism 'none', expected 'dp-sgd'"),
        ("masked", "epsilon", float("inf"), "an epsilon or a delta out of range"),
        ("sealed", "sealed", [b"x", b"x", b"x"], "for every client but itself"),
        ("sealed", "sealed", [b"x" * 600, b"", b"x"], "not a byte string of the size"),
        ("shares request", "seal_keys", [bytes(PUBLIC_BYTES)] * 1001, "1 to 1000 entries"),
        ("unmask request", "survivors", [0] * 1001, "1001 survivors"),
        ("unmask request", "survivors", ["0"], "places"),
        ("revealed", "shares", [REVEALED[1], REVEALED[1], b""], "reveals 68 bytes for place 0, expected 52"),
        ("revealed", "shares", REVEALED[:2], "2 entries for 3 clients"),
    ],
)
def test_each_rule_names_what_it_found(name, key, value, reason):
    content, unpack = MESSAGES[name]
    altered = copy(content)
    altered[sum_wire.SECURE][key] = value
    with pytest.raises(WireError, match=reason):
        unpack(altered)
