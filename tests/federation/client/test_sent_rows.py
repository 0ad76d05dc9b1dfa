"""What a client sends under `resend-above`: only what the server provably holds is left out."""

from dataclasses import replace

import numpy as np
import pytest

from knot_fed.federation.client.sent_rows import pack_answer
from knot_fed.federation.wire import exchange
from knot_fed.federation.wire.answer_arrays import HeldRows
from knot_fed.models import build_classifier, trained_state
from knot_fed.types import TeacherAnswer
from tests.federation.client.owners import PUBLIC, SPEC, Owner, request, sent_student
from tests.federation.wire.messages import REPLY

ROUNDS = {"teacher.start": "student", "round-texts": "all", "rounds": 3, "resend-above": 0.02}
STATE = trained_state(build_classifier(SPEC, seed=0))
COUNT = len(PUBLIC)


def of_round(round_number, **more):
    """A request of a round, whose student is another one in each."""
    first = next(iter(STATE))
    student = sent_student(state=STATE | {first: np.full_like(STATE[first], 0.001 * round_number)})
    return {"student": student, "round_number": round_number, **more}


def digest(reply):
    return HeldRows.of(reply.arrays, fingerprint=PUBLIC.fingerprint, rows=range(COUNT)).digest


@pytest.fixture
def owner(tmp_path):
    return Owner(tmp_path, policy="accept-student = true").run(keys=ROUNDS)


def asked(owner, round_number, *, held=None, claimed=None):
    """Ask as a server that holds the reply `held`, or claims another digest."""
    name = digest(held) if held is not None else claimed or ""
    content = owner.ask("train", request(**of_round(round_number, held=name)))
    arrays = held.arrays if held is not None else None
    return owner.read(content, examples=COUNT, round_number=round_number, held=arrays)


def test_without_the_key_the_state_keeps_nothing_and_all_is_sent(tmp_path):
    owner = Owner(tmp_path, policy="accept-student = true").run(keys=ROUNDS | {"resend-above": 0.0})
    first = asked(owner, 1)
    assert "sent-rows" not in owner.context.state
    assert asked(owner, 2, held=first).rows_sent == COUNT


def test_a_client_sends_what_changed_and_both_sides_hold_the_same_afterwards(owner):
    first = asked(owner, 1)
    second = asked(owner, 2, held=first)
    third = asked(owner, 3, held=second)
    assert first.rows_sent == COUNT
    assert second.rows_sent < COUNT
    assert third.rows_sent < COUNT


def test_the_rows_are_those_of_a_whole_answer_within_the_threshold(owner, tmp_path):
    second = asked(owner, 2, held=asked(owner, 1))
    whole = asked(Owner(tmp_path / "other", policy="accept-student = true").run(keys=ROUNDS), 2)
    assert whole.rows_sent == COUNT
    error = np.abs(whole.answer.soft_labels.astype(np.float64) - second.answer.soft_labels).sum(axis=1) / 2
    assert error.max() <= 0.02 + 1e-6


@pytest.mark.parametrize("claimed", ["0" * 64, "f" * 64])
def test_a_server_that_claims_to_hold_what_it_does_not_gets_all_rows(owner, claimed):
    asked(owner, 1)
    assert asked(owner, 2, claimed=claimed).rows_sent == COUNT


def test_a_server_that_claims_the_answer_of_an_earlier_round_gets_all_rows(owner):
    first = asked(owner, 1)
    asked(owner, 2, claimed="0" * 64)
    assert asked(owner, 3, held=first).rows_sent == COUNT


def test_the_answer_to_other_rows_is_not_taken_for_that_to_these(owner):
    first = asked(owner, 1)
    content = owner.ask("train", request(start=1, **of_round(2, held=digest(first))))
    assert owner.read(content, examples=COUNT - 1, round_number=2).rows_sent == COUNT - 1


def test_a_restarted_client_sends_all_rows(owner):
    first = asked(owner, 1)
    owner.run(keys=ROUNDS)  # the same run, and the node's state is lost
    assert asked(owner, 2, held=first).rows_sent == COUNT


def packed(owner, rows, round_number, *, held=None):
    """What the client would send of these soft labels, as the server reads it."""
    reply = replace(REPLY, answer=TeacherAnswer(rows, np.ones(COUNT, np.float32), 9))
    name = digest(held) if held is not None else ""
    asks = exchange.TrainRequest(round_number, PUBLIC.fingerprint, 0, COUNT, held=name)
    content = pack_answer(owner.client(), reply, asks, owner.context)
    return owner.read(content, examples=COUNT, round_number=round_number, held=held.arrays if held else None)


def moved(place, by):
    """Uniform soft labels, one of which is `by` in total variation away from that."""
    rows = np.full((COUNT, 5), 0.2, np.float32)
    rows[place] += np.array([by, -by, 0, 0, 0], np.float32)
    return rows


def test_a_round_asked_twice_leaves_both_with_the_same_whichever_answer_arrived(owner):
    for arrives in (0, 1):
        first = packed(owner, moved(0, 0.0), 1)
        kept = moved(0, 0.1) + moved(1, 0.01) - 0.2  # the second row is below the threshold
        twice = [packed(owner, kept.astype(np.float32), 2, held=first) for _ in range(2)]
        assert [reply.rows_sent for reply in twice] == [1, COUNT]
        assert digest(twice[0]) != digest(twice[1])
        third = packed(owner, moved(0, 0.1), 3, held=twice[arrives])
        assert third.rows_sent == (COUNT if arrives == 0 else 0)
        error = np.abs(third.answer.soft_labels - moved(0, 0.1)).sum(axis=1) / 2
        assert error.max() <= 0.02


def test_small_changes_over_many_rounds_are_sent_once_they_add_up(owner):
    held = packed(owner, moved(0, 0.0), 1)
    sent = []
    for round_number, by in ((2, 0.015), (3, 0.03), (3, 0.045), (3, 0.06)):
        held = packed(owner, moved(0, by), round_number, held=held)
        sent.append(held.rows_sent)
        assert np.abs(held.answer.soft_labels - moved(0, by)).sum(axis=1).max() / 2 <= 0.02
    assert sent == [0, 1, 0, 1]


def test_the_ledger_charges_for_all_rows(owner):
    asked(owner, 2, held=asked(owner, 1))
    assert [entry.texts for entry in owner.entries() if entry.texts] == [COUNT, COUNT]
