import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.federation.wire.fuzz import NAMES, attempt
from tests.federation.wire.messages import TARGETS
from tests.federation.wire.mutations import arbitrary_content, mutated


@pytest.mark.parametrize("name", TARGETS)
def test_a_valid_message_is_read(name):
    build, read = TARGETS[name]
    read(build())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150)
@given(draw=st.randoms(use_true_random=False))
def test_no_input_raises_anything_but_its_own_error(name, draw):
    assert attempt(name, draw) in ("refused", "read")


@settings(max_examples=50)
@given(draw=st.randoms(use_true_random=False), name=st.sampled_from(sorted(TARGETS)))
def test_mutations_stay_messages_that_flower_can_hold(draw, name):
    assert mutated(draw, TARGETS[name][0]()) is not None
    assert arbitrary_content(draw) is not None
