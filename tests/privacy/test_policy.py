import math
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.config import PrivacyConfig
from knot_fed.errors import PolicyError
from knot_fed.privacy.policy import STUDY, ReleasePolicy
from knot_fed.privacy.policy_checks import (
    check_evaluations,
    check_limits,
    check_sums,
    check_test_size,
    check_transfer_set,
    release_answer,
    rounded_metrics,
    tightened_settings,
)
from knot_fed.types import Metrics, TeacherAnswer
from tests.config.test_config import leaves

ROWS = np.full((4, 2), 0.5, dtype=np.float32)


def release(policy):
    return release_answer(TeacherAnswer(ROWS, np.ones(4, dtype=np.float32), 9), policy=policy)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_no_limit_is_ever_passed(limit, run, life):
    policy = ReleasePolicy.from_mapping({"max-texts-per-run": limit, "max-texts-in-life": limit})
    allowed = not limit or (run + 4 <= limit and life + 4 <= limit)
    refused = nullcontext() if allowed else pytest.raises(PolicyError, match=f"= {limit} used")
    with refused:
        check_limits(4, policy=policy, released_in_run=run * 1.0, released_in_life=life * 1.0)


def test_what_the_owner_keeps_is_not_released():
    policy = ReleasePolicy.from_mapping({"share-example-counts": False, "share-confidences": False})
    kept = release(policy)
    assert kept.examples == 0
    assert not kept.scores.any()
    assert release(ReleasePolicy.from_mapping({})).examples == 9


@pytest.mark.parametrize("mapping", [{"max-text": 1}, {"max-texts-per-run": -1}, {"max-texts-per-run": "many"}])
def test_a_policy_that_cannot_be_read_is_refused(mapping):
    with pytest.raises(PolicyError, match="known keys: max-texts-per-run"):
        ReleasePolicy.from_mapping(mapping)


def test_every_number_of_a_policy_has_two_ends():
    found = [(key, node) for key, node, _ in leaves(ReleasePolicy.__pydantic_core_schema__)]
    numbers = [(key, node) for key, node in found if node["type"] in ("int", "float")]
    assert len(numbers) == 16
    for key, node in numbers:
        assert {"ge", "gt"} & set(node), key
        assert {"le", "lt"} & set(node), key
        assert node["type"] == "int" or node.get("allow_inf_nan") is False, key


@pytest.mark.parametrize("key", ["max-epsilon", "max-epsilon-per-run"])
@pytest.mark.parametrize("value", [0.001, 5000.0, -1.0])
def test_a_budget_that_no_noise_can_keep_is_refused_when_the_policy_is_read(key, value):
    with pytest.raises(PolicyError, match=key):
        ReleasePolicy.from_mapping({key: value})


@given(st.integers(1, 20), st.integers(0, 25), st.integers(0, 25))
def test_no_more_students_are_measured_than_allowed(limit, in_run, in_life):
    policy = ReleasePolicy.from_mapping({"max-evaluations-per-run": limit, "max-evaluations-in-life": limit + 2})
    allowed = in_run < limit and in_life < limit + 2
    with nullcontext() if allowed else pytest.raises(PolicyError, match="used, 1 more needed"):
        check_evaluations(in_run * 1.0, in_life * 1.0, policy=policy)


def test_a_refused_evaluation_tells_what_is_used_and_what_is_needed():
    policy = ReleasePolicy.from_mapping({"max-evaluations-per-run": 4})
    check_evaluations(2.0, 2.0, policy=policy, models=2)
    with pytest.raises(PolicyError, match="max-evaluations-per-run = 4: 3 used, 2 more needed; ask for fewer"):
        check_evaluations(3.0, 3.0, policy=policy, models=2)


@pytest.mark.parametrize("budget", [{"require": ("dp-sgd",)}, {"max-epsilon": 1.0}, {"max-epsilon-per-run": 1.0}])
def test_beside_a_guarantee_no_student_is_measured_unless_the_owner_says_so_by_its_own_key(budget):
    asked = ReleasePolicy.from_mapping(budget | {"take-part-in-evaluation": True})
    with pytest.raises(PolicyError, match="which metrics do not have; set evaluate-without-guarantee"):
        check_evaluations(0.0, 0.0, policy=asked)
    check_evaluations(0.0, 0.0, policy=ReleasePolicy.from_mapping(budget | {"evaluate-without-guarantee": True}))


def test_an_owner_without_a_policy_has_limits_of_evaluations_and_no_metrics_of_few_examples():
    policy = ReleasePolicy.from_mapping({})
    for counts in ((50.0, 50.0), (0.0, 200.0)):
        with pytest.raises(PolicyError, match="used, 1 more needed; ask for fewer evaluations"):
            check_evaluations(*counts, policy=policy)
    with pytest.raises(PolicyError, match="fewer test examples than least-test-examples = 20") as refused:
        check_test_size(19, policy=policy)
    assert "19" not in str(refused.value)
    check_test_size(20, policy=policy)


@given(st.floats(0, 1), st.floats(0, 4), st.integers(20, 99_999))
def test_metrics_leave_rounded_and_no_count_that_the_owner_keeps(share, distance, examples):
    exact = Metrics(
        sd=distance, sd_calibrated=distance, w1=distance, accuracy=share, macro_f1=share, ece=share, examples=examples
    )
    told = rounded_metrics(exact, diameter=4.0, policy=ReleasePolicy.from_mapping({}))
    assert told.sd == round(distance, 2)
    assert told.sd <= told.w1
    assert {told.accuracy, told.macro_f1, told.ece} == {round(share, 2)}
    assert len(str(told.examples).rstrip("0")) <= 2
    kept = rounded_metrics(exact, diameter=4.0, policy=ReleasePolicy.from_mapping({"share-example-counts": False}))
    assert kept.examples == 0
    assert rounded_metrics(exact, diameter=4.0, policy=STUDY) == exact


@given(st.sampled_from([0.0, 1.0, 3.0, math.inf]), st.sampled_from([0.0, 1.0, 2.0, 5.0, math.inf]), st.integers(0, 4))
def test_a_text_enters_one_sum_a_run_and_no_more_in_life_than_allowed(in_run, in_life, limit):
    policy = ReleasePolicy.from_mapping({"max-sums-in-life": limit})
    allowed = in_run == 0 and (not limit or in_life < limit)
    with nullcontext() if allowed else pytest.raises(PolicyError, match="ask for others"):
        check_sums(in_run, in_life, policy=policy)


@pytest.mark.parametrize("pinned", ["", "a" * 64])
def test_a_run_keeps_the_transfer_set_that_it_began_with(pinned):
    policy = ReleasePolicy.from_mapping({"transfer-fingerprint": pinned})
    check_transfer_set("a" * 64, bound="", policy=policy)
    check_transfer_set("a" * 64, bound="a" * 64, policy=policy)
    with pytest.raises(PolicyError, match="another transfer set"):
        check_transfer_set("b" * 64, bound="a" * 64, policy=policy)


def test_a_study_has_the_delta_that_it_asks_for_and_an_owner_a_smaller_one():
    asked = PrivacyConfig(mechanism="dp-sgd", delta=0.01)
    assert tightened_settings(asked, STUDY).delta == 0.01
    assert tightened_settings(asked, ReleasePolicy()).delta == 1e-5
