"""Changed rows on the wire: the whole answer is restored within the stated error, or the reply is refused."""

import re

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given, settings
from hypothesis import strategies as st

from knot_fed.errors import WireError
from knot_fed.federation.wire import envelope, exchange
from knot_fed.federation.wire.answer_arrays import (
    CONFIDENCE,
    ROWS,
    HeldRows,
    answer_arrays,
    changed_rows,
    count_bytes,
    replace_rows,
    take_rows,
)
from knot_fed.privacy.compression import decompress
from knot_fed.types import TeacherAnswer
from tests.federation.wire.messages import LABELS, PLAIN, REPLY, soft_labels

SCHEMES = ("none", "float16", "uint8", "top-k", "hard")
WHOLE = answer_arrays(REPLY.answer, privacy=PLAIN, scored=True)


def settings_of(scheme):
    return PLAIN.model_copy(update={"compression": scheme, "top_k": 2})


def decoded(arrays, scheme):
    return decompress(arrays, scheme, classes=5).astype(np.float64)


def distance(first, second):
    return np.abs(first - second).sum(axis=1) / 2


def walk(seed, *, rounds, step):
    """Soft labels of several rounds, each a small change of those before."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(40, 5)) * 2
    for _ in range(rounds):
        logits = logits + generator.normal(size=logits.shape) * step
        rows = np.exp(logits)
        yield (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rounds=st.integers(2, 6),
    step=st.sampled_from([0.0, 0.02, 0.2, 2.0]),
    above=st.floats(0, 1),
    scheme=st.sampled_from(SCHEMES),
)
def test_after_any_number_of_rounds_no_restored_row_is_further_off_than_the_threshold(
    seed, rounds, step, above, scheme
):
    held, privacy, errors = None, settings_of(scheme), []
    for rows in walk(seed, rounds=rounds, step=step):
        answer = TeacherAnswer(rows, np.ones(len(rows), np.float32), 9)
        whole = answer_arrays(answer, privacy=privacy, scored=True)
        if held is not None:
            changed = changed_rows(decoded(held, scheme), decoded(whole, scheme), above=above)
            restored = replace_rows(held, take_rows(whole, changed))
            errors.append(distance(decoded(restored, scheme), decoded(whole, scheme)))
            assert errors[-1].max() <= above
            assert (errors[-1][changed] == 0).all()
            whole = restored
        held = whole
    pooled = np.mean(errors, axis=0)
    assert pooled.max() <= above + 1e-12


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31), above=st.floats(0, 0.5), weights=st.lists(st.floats(0.01, 1), min_size=3, max_size=3)
)
def test_a_weighted_mean_of_restored_rows_is_off_by_no_more_than_the_threshold(seed, above, weights):
    shares, full, restored = np.array(weights) / sum(weights), [], []
    for client in range(3):
        before, now = walk(seed + client, rounds=2, step=0.3)
        changed = changed_rows(before, now, above=above)
        full.append(now.astype(np.float64))
        restored.append(np.where(np.isin(np.arange(len(now)), changed)[:, None], now, before).astype(np.float64))
    error = distance(np.tensordot(shares, full, axes=1), np.tensordot(shares, restored, axes=1))
    assert error.max() <= above + 1e-9


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("scored", [True, False])
def test_the_server_reads_from_changes_what_the_client_keeps(scheme, scored):
    first, second = walk(1, rounds=2, step=0.3)
    privacy = settings_of(scheme)
    held, whole = (
        answer_arrays(TeacherAnswer(rows, rows[:, 0].copy(), 9), privacy=privacy, scored=scored)
        for rows in (first, second)
    )
    sent = take_rows(whole, changed_rows(decoded(held, scheme), decoded(whole, scheme), above=0.05))
    assert 0 < len(sent[ROWS]) < len(first)
    content = exchange.pack_soft_labels(REPLY, sent, round_number=2)
    kinds = {"examples": 40, "labels": LABELS, "privacy": privacy, "scored": scored}
    read = exchange.unpack_soft_labels(content, round_number=2, held=held, **kinds)
    kept = replace_rows(held, sent)
    assert read.rows_sent == len(sent[ROWS])
    for name, array in kept.items():
        np.testing.assert_array_equal(read.arrays[name], array)
    digests = {HeldRows.of(arrays, fingerprint="f", rows=range(40)).digest for arrays in (kept, read.arrays)}
    assert len(digests) == 1
    assert HeldRows.of(kept, fingerprint="f", rows=range(1, 41)).digest not in digests
    assert HeldRows.of(held, fingerprint="f", rows=range(40)).digest not in digests
    np.testing.assert_array_equal(read.answer.scores, kept[CONFIDENCE] if scored else np.zeros(40))
    with pytest.raises(WireError, match="other keys"):
        exchange.unpack_soft_labels(content, round_number=2, **kinds)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_whole_answer_is_larger_by_its_scores_only_where_they_are_read(scheme):
    reply = exchange.TrainReply(REPLY.answer, reused=False, seconds=0.5, claim=REPLY.claim)
    sizes = [
        envelope.count_bytes(
            exchange.pack_soft_labels(
                reply, answer_arrays(reply.answer, privacy=settings_of(scheme), scored=scored), round_number=1
            )
        )
        for scored in (True, False)
    ]
    assert sizes[0] - sizes[1] == 4 * len(reply.answer.scores)


def test_nothing_changed_is_an_answer_of_no_rows():
    build, read = soft_labels(REPLY, PLAIN, changed=[])
    np.testing.assert_array_equal(read(build()).answer.soft_labels, REPLY.answer.soft_labels)
    assert read(build()).rows_sent == 0


def of(name, array):
    return {name: array if isinstance(array, Array) else Array(np.asarray(array))}


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (of(ROWS, np.array([2, 0], np.uint32)), "do not increase from 0 to 2"),
        (of(ROWS, np.array([1, 1], np.uint32)), "do not increase from 0 to 2"),
        (of(ROWS, np.array([0, 3], np.uint32)), "do not increase from 0 to 2"),
        (of(ROWS, np.array([0, 2**32 - 1], np.uint32)), "do not increase from 0 to 2"),
        (of(ROWS, np.arange(4, dtype=np.uint32)), "another shape than 0 to 3 positions"),
        (of(ROWS, np.array([[0, 2]], np.uint32)), "another shape than 0 to 3 positions"),
        (of(ROWS, np.array(0, np.uint32)), "another shape than 0 to 3 positions"),
        (of(ROWS, Array("uint32", (-1,), "numpy.ndarray", b"")), "another shape than 0 to 3 positions"),
        (of(ROWS, np.array([0, 2], np.int64)), "is int64"),
        (of(ROWS, np.array([0, 2], np.float32)), "is float32"),
        (of(ROWS, np.array([0], np.uint32)), "bytes, expected|expected float32"),
        (of("soft-labels", np.full((3, 5), 0.2, np.float32)), "expected float32"),
        (of("soft-labels", np.full((2, 4), 0.25, np.float32)), "expected float32"),
        (of("soft-labels", np.full((2, 5), 0.3, np.float32)), "sums to 1.5"),
        (of("soft-labels", np.full((2, 5), np.nan, np.float32)), "not finite"),
        (of(CONFIDENCE, np.ones(3, np.float32)), "expected float32"),
        (of(CONFIDENCE, np.full(2, 9, np.float32)), r"confidence outside 0\.\.2"),
        (of("more", np.ones(2, np.float32)), "other keys"),
    ],
)
def test_changes_that_no_honest_client_sends_are_refused(arrays, told):
    build, read = soft_labels(REPLY, PLAIN, changed=[0, 2])
    content = build()
    for name, array in arrays.items():
        content[exchange.SOFT_LABELS][name] = array
    with pytest.raises(WireError) as refused:
        read(content)
    assert re.search(told, str(refused.value)), str(refused.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_largest_answer_of_changes_that_a_client_sends_is_within_the_bounds(scheme):
    """A client sends all rows where the changed ones, with their positions, would be more bytes."""
    rows = np.full((50_000, 5), 0.2, np.float32)
    whole = answer_arrays(
        TeacherAnswer(rows, np.ones(len(rows), np.float32), 9), privacy=settings_of(scheme), scored=True
    )
    most = next(
        changes
        for count in range(len(rows), 0, -1000)
        if count_bytes(changes := take_rows(whole, np.arange(count, dtype=np.uint32))) < count_bytes(whole)
    )
    size = envelope.count_bytes(exchange.pack_soft_labels(REPLY, most, round_number=2))
    assert size < envelope.ReplyBounds.of_soft_labels(len(rows), 5).bytes


@pytest.mark.parametrize("held", ["x", "A" * 64, "a" * 63, "a" * 10**6])
def test_a_request_names_the_answer_held_by_a_digest(held):
    request = exchange.pack_train_request(exchange.TrainRequest(2, "a" * 64, 0, 3, held=held))
    with pytest.raises(WireError, match="not a SHA-256"):
        exchange.unpack_train_request(request)
