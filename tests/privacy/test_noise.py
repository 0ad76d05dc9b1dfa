"""The only source of noise: its distribution, its grid, and what it hides."""

import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from knot_fed.errors import PrivacyError
from knot_fed.privacy.noise import GRID_BITS, NoiseSource, add_gaussian, grid_step

KEY = bytes(range(32))
LEAST_P = 1e-6


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_steps_have_the_chances_of_the_discrete_gaussian(bits):
    """Against the closed form `exp(-z^2 / (2 sigma^2))`, by a chi-squared test."""
    drawn, sigma = NoiseSource(KEY).steps(400_000, bits=bits), 2.0**bits
    values = np.arange(-int(8 * sigma), int(8 * sigma) + 1)
    chances = np.exp(-(values**2) / (2 * sigma**2))
    expected = chances / chances.sum() * len(drawn)
    seen = (drawn[:, None] == values).sum(axis=0)
    common = expected > 5
    statistic = ((seen - expected) ** 2 / expected)[common].sum()
    assert stats.chi2.sf(statistic, common.sum() - 1) > LEAST_P


def test_on_the_fine_grid_steps_are_normal_and_apart():
    drawn = NoiseSource(KEY).steps(300_000) / 2.0**GRID_BITS
    assert stats.kstest(drawn, "norm").pvalue > LEAST_P
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.01
    tails = (np.abs(drawn) > 3).sum()
    assert stats.binomtest(int(tails), len(drawn), 2 * stats.norm.sf(3)).pvalue > LEAST_P


@given(st.integers(1, 60), st.integers(0, 2**32))
def test_where_the_words_run_out_changes_no_deviate(count, key):
    """Words are drawn in blocks; a deviate that needs more words is drawn again from its first word."""
    secret = key.to_bytes(32, "big")
    pieces = NoiseSource(secret)
    pieces.words = lambda wanted, whole=pieces.words: whole(min(wanted, 7))
    np.testing.assert_array_equal(pieces.steps(count), NoiseSource(secret).steps(count))


def test_the_keystream_is_that_of_chacha20_and_a_used_up_key_gives_way_to_a_fresh_one():
    source = NoiseSource(KEY)
    cipher = Cipher(algorithms.ChaCha20(KEY, bytes(16)), mode=None).encryptor()
    assert source.bytes(100) == cipher.update(bytes(100))
    source._left = 50
    assert source.bytes(100) != cipher.update(bytes(100))


@given(st.integers(0, 100).map(lambda percent: percent / 100))
def test_coins_are_heads_as_often_as_asked_and_never_more(probability):
    heads = NoiseSource(KEY).coins(2000, probability=probability).sum()
    assert stats.binomtest(int(heads), 2000, probability).pvalue > LEAST_P
    assert not NoiseSource().coins(50, probability=0.0).any()
    assert NoiseSource().coins(50, probability=1.0).all()


@given(
    st.lists(st.floats(-2, 2), min_size=2, max_size=6),
    st.floats(1e-3, 1e3),
    st.integers(0, 5),
    st.floats(-1e-9, 1e-9),
)
def test_what_leaves_lies_on_a_grid_that_no_value_changes(values, std, place, shift):
    """Mironov's attack (2012) infers the value from low-order bits of the floats; here these bits are the grid's."""
    step = grid_step(std, sensitivity=1.0, entries=len(values))
    row = np.array([values])
    row[0, place % len(values)] += shift
    noisy = add_gaussian(row, std=std, sensitivity=1.0, source=NoiseSource())
    steps = noisy / step
    assert (np.abs(steps - np.rint(steps)) <= np.abs(steps) * 2**-51).all()


@given(st.integers(1, 1000), st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_rounding_is_paid_for_by_more_noise(entries, multiplier, sensitivity):
    """Rounding moves neighbours apart by at most sqrt(entries) steps; the ratio used in accounting still holds."""
    std = multiplier * sensitivity
    step = grid_step(std, sensitivity=sensitivity, entries=entries)
    apart = sensitivity + math.sqrt(entries) * step
    assert step * 2.0**GRID_BITS / apart >= multiplier * (1 - 1e-9)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_no_noise_is_refused(std):
    with pytest.raises(PrivacyError, match="no noise guarantees nothing"):
        add_gaussian(np.zeros((1, 2)), std=std, sensitivity=1.0, source=NoiseSource())


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e12])
def test_values_that_the_grid_does_not_hold_are_refused(value):
    with pytest.raises(PrivacyError, match="nothing leaves"):
        add_gaussian(np.array([[0.0, value]]), std=1.0, sensitivity=1.0, source=NoiseSource())


def test_noise_so_large_that_the_grid_is_coarse_is_refused():
    with pytest.raises(PrivacyError, match="beyond the grid; ask for fewer texts"):
        grid_step(1e12, sensitivity=1.0, entries=5)
