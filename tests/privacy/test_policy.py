from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.errors import PolicyError
from knot_fed.privacy.policy import ReleasePolicy, check_limits, release_soft_labels

ROWS = np.full((4, 2), 0.5, dtype=np.float32)


def release(policy):
    return release_soft_labels(ROWS, confidence=np.zeros(4, dtype=np.float32), examples=9, policy=policy)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_no_limit_is_ever_passed(limit, run, life):
    policy = ReleasePolicy.from_mapping({"max-texts-per-run": limit, "max-texts-in-life": limit})
    allowed = not limit or (run + 4 <= limit and life + 4 <= limit)
    refused = nullcontext() if allowed else pytest.raises(PolicyError, match=f"= {limit} used")
    with refused:
        check_limits(4, policy=policy, released_in_run=run, released_in_life=life)


def test_what_the_owner_keeps_is_not_released():
    policy = ReleasePolicy.from_mapping({"share-example-counts": False, "share-confidences": False})
    kept = release(policy)
    assert kept.examples is None
    assert kept.confidence is None


@pytest.mark.parametrize("mapping", [{"max-text": 1}, {"max-texts-per-run": -1}, {"max-texts-per-run": "many"}])
def test_a_policy_that_cannot_be_read_is_refused(mapping):
    with pytest.raises(PolicyError, match="known keys: max-texts-per-run"):
        ReleasePolicy.from_mapping(mapping)
