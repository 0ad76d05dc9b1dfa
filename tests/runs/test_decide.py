"""The random-effects mean over data sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.decide import random_effects
from knot_fed.runs.statistics import paired_interval

effects = st.lists(st.floats(-1, 1), min_size=2, max_size=8).map(np.array)


@given(effects, st.floats(1e-4, 10))
def test_equally_precise_data_sets_give_the_t_interval_of_their_means(means, variance):
    mean, low, high = random_effects(means, np.full(len(means), variance))
    assert mean == pytest.approx(means.mean(), abs=1e-9)
    assert (low, high) == pytest.approx(paired_interval(means), abs=1e-6)


@given(effects, st.floats(-1, 1))
def test_a_shift_of_all_effects_shifts_the_interval(means, shift):
    variances = np.linspace(0.1, 1, len(means))
    first, second = random_effects(means, variances), random_effects(means + shift, variances)
    np.testing.assert_allclose(np.subtract(second, first), shift, atol=1e-6)


def test_a_precise_data_set_counts_for_more_where_all_agree_but_for_noise():
    mean, _, _ = random_effects(np.array([0.0, 1.0]), np.array([1.0, 100.0]))
    assert mean == pytest.approx(1 / 101)  # inverse variances, since nothing varies between the sets


def test_one_data_set_alone_decides_nothing():
    assert random_effects(np.array([0.3]), np.array([0.1])) == (0.3, -np.inf, np.inf)
