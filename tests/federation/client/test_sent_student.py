"""A student that comes with a request: whose teachers start from it is the owner's to decide."""

import re
from dataclasses import replace

import numpy as np
import pytest

from knot_fed.models import build_classifier, trained_state
from knot_fed.privacy.ledger.spending import of_run, spent_in_run
from knot_fed.privacy.policy_checks import total_epsilon
from tests.federation.client.owners import PUBLIC, SPEC, Owner, request, sent_student

START = {"teacher.start": "student", "round-texts": "all", "rounds": 2}
ACCEPTS = "accept-student = true"
STATE = trained_state(build_classifier(SPEC, seed=0))


def changed(value):
    first = next(iter(STATE))
    return STATE | {first: np.full_like(STATE[first], value)}


def test_an_owner_starts_from_a_servers_student_only_if_its_policy_accepts_it(tmp_path):
    content = request(student=sent_student())
    told = Owner(tmp_path / "refuses").run(keys=START).refusal("train", content)
    assert told.endswith("set accept-student = true, or teacher.start = 'scratch'")
    rows = [
        Owner(tmp_path / "accepts", policy=ACCEPTS).run(keys=START).soft_labels(student=sent_student()),
        Owner(tmp_path / "scratch").run().soft_labels(),
    ]
    assert (rows[0].answer.soft_labels != rows[1].answer.soft_labels).any()


@pytest.mark.parametrize(
    ("student", "told"),
    [
        (None, "no student came and teacher.start = 'student'"),
        (sent_student(replace(SPEC, labels=("bad", "good"))), "other labels than the run"),
        (sent_student(state=changed(np.nan)), "parameters that are not finite"),
        (sent_student(state=changed(1e7)), "parameters beyond 1e\\+06"),
        (sent_student(state={"weight": np.ones(3, np.float32)}), "does not hold exactly the student's arrays"),
        (sent_student(replace(SPEC, name="hf:some/model")), "named by the server only"),
    ],
    ids=["none", "labels", "nan", "large", "arrays", "model"],
)
def test_a_student_that_cannot_be_started_from_is_refused_before_any_charge(tmp_path, student, told):
    owner = Owner(tmp_path, policy=ACCEPTS).run(keys=START)
    assert re.search(told, owner.refusal("train", request(student=student)))
    assert not [entry for entry in owner.entries() if entry.texts]


def test_a_student_that_the_configuration_does_not_use_is_refused(tmp_path):
    told = Owner(tmp_path, policy=ACCEPTS).refusal("train", request(student=sent_student()))
    assert told.startswith("a student came and teacher.start = 'scratch'")


def test_the_same_round_asked_again_gets_the_same_rows(tmp_path):
    owner = Owner(tmp_path, policy=ACCEPTS).run(keys=START)
    first, again = (owner.soft_labels(student=sent_student()).answer.soft_labels for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("mechanism", ["dp-sgd", "gaussian"])
def test_each_round_from_another_student_spends_and_all_together_stay_within_epsilon(tmp_path, mechanism):
    policy = f"{ACCEPTS}\nmax-epsilon-per-run = 4\ndelta = 1e-5"
    keys = START | {"privacy.mechanism": mechanism, "privacy.epsilon": 8.0}
    owner = Owner(tmp_path, policy=policy).run(keys=keys)
    spent = []
    for value in (0.01, 0.02):
        owner.soft_labels(student=sent_student(state=changed(value)))
        entries, client = of_run(owner.entries(), "7"), owner.client()
        unit = client.run.privacy.facts.guarantee.unit
        events = spent_in_run(entries, unit, keys_of=lambda entry: PUBLIC.keys[entry.start : entry.stop])
        spent.append(total_epsilon(events, 1e-5))
    assert 0 < spent[0] < 3.5
    assert 3.9 < spent[1] <= 4.0
    third = owner.refusal("train", request(student=sent_student(state=changed(0.03))))
    assert "max-epsilon-per-run = 4" in third


def test_a_kept_teacher_under_a_guarantee_is_released_once_however_often_its_round_is_asked(tmp_path):
    keys = START | {"privacy.mechanism": "dp-sgd", "privacy.epsilon": 8.0}
    owner = Owner(tmp_path, policy=ACCEPTS).run(keys=keys)
    rows = [owner.soft_labels(student=sent_student()).answer.soft_labels for _ in range(2)]
    np.testing.assert_array_equal(*rows)
    assert [entry.fresh > 0 for entry in owner.entries() if entry.texts] == [True, False]
