import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from knot_fed.errors import ConfigError, FederationError, SoftLabelsError
from knot_fed.privacy.secure_sum import (
    Quantisation,
    add_masks,
    check_threshold,
    default_threshold,
    dequantise,
    expand_mask,
    quantise,
)

SEEDS = st.integers(0, 2**32 - 1)
KEY = bytes(range(32))


def teachers(seed, clients, texts=6, classes=4):
    generator = np.random.default_rng(seed)
    soft_labels = generator.dirichlet(np.full(classes, 0.3), size=(clients, texts)).astype(np.float32)
    return soft_labels, generator.uniform(0, 1, size=(clients, texts))


@given(SEEDS, st.integers(2, 20), st.sampled_from([24, 27, 40, 56]), st.sampled_from([1.0, 2.0, 2.0**24]))
def test_the_sum_of_quantised_teachers_is_exact_to_the_quantisation(seed, clients, bits, bound):
    soft_labels, weights = teachers(seed, clients)
    quantisation = Quantisation(bits, bound, parties=clients)
    weights = bound * np.maximum(weights, 2.0 ** (14 - bits))
    total = sum(quantise(q, w, quantisation).astype(object) for q, w in zip(soft_labels, weights, strict=True))
    assert total.max() < 2 ** (8 * quantisation.word.itemsize)
    weighted, summed = dequantise(total.astype(quantisation.word), quantisation)
    unit = max(1 / quantisation.scale, bound * 2.0**-51)
    exact = (weights[:, :, None] * soft_labels.astype(np.float64)).sum(axis=0)
    assert np.abs(weighted - exact).max() <= clients * unit
    assert np.abs(summed - weights.sum(axis=0)).max() <= clients * unit


@given(st.integers(1, 1000), st.floats(1, 1e6), st.integers(20, 62))
def test_a_sum_of_the_largest_values_never_overflows_its_word(parties, bound, bits):
    if parties * 2**bits >= 2**64:
        with pytest.raises(ConfigError, match=r"set privacy\.sum-bits to"):
            Quantisation(bits, bound, parties)
        return
    quantisation = Quantisation(bits, bound, parties)
    largest = quantise(np.ones((1, 1)), np.full(1, bound), quantisation)
    assert parties * int(largest.max()) < 2 ** (8 * quantisation.word.itemsize)


@given(st.integers(1, 1000), st.integers(20, 62))
def test_the_remedy_for_an_overflow_is_one(parties, bits):
    if parties * 2**bits >= 2**64:
        Quantisation(63 - parties.bit_length(), 1.0, parties)


@pytest.mark.parametrize("bits", [24, 56])
def test_where_nobody_scores_all_teachers_weigh_the_same(bits):
    quantisation = Quantisation(bits, 1.0, parties=3)
    soft_labels, _ = teachers(1, 3)
    total = sum(quantise(q, np.zeros(6), quantisation) for q in soft_labels)
    weighted, weights = dequantise(total, quantisation)
    assert np.abs(weighted / weights[:, None] - soft_labels.mean(axis=0)).max() < 1e-4


@pytest.mark.parametrize("weight", [-0.1, 1.5, np.nan, np.inf])
def test_a_weight_outside_its_range_is_refused_and_not_cut_off(weight):
    with pytest.raises(SoftLabelsError, match=r"1 of 2 weights outside 0\.\.1"):
        quantise(np.full((2, 2), 0.5), np.array([0.5, weight]), Quantisation(24, 1.0, parties=3))


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_a_soft_label_outside_its_range_is_refused(value):
    with pytest.raises(SoftLabelsError, match="apply softmax"):
        quantise(np.array([[0.5, value]]), np.ones(1), Quantisation(24, 1.0, parties=3))


@given(SEEDS, st.sampled_from(["<u4", "<u8"]))
def test_masks_taken_off_in_any_order_give_the_values_back(seed, word):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 2**32 - 1, size=(5, 3)).astype(word)
    masks = [expand_mask(generator.bytes(32), rows=5, columns=3, word=np.dtype(word)) for _ in range(4)]
    masked = add_masks(values, plus=masks[:2], minus=masks[2:])
    assert (masked != values).any()
    assert (add_masks(masked, plus=masks[2:][::-1], minus=masks[:2][::-1]) == values).all()


@pytest.mark.parametrize("word", ["<u4", "<u8"])
def test_a_mask_covers_the_whole_range_of_the_word_evenly(word):
    mask = expand_mask(KEY, rows=4096, columns=16, word=np.dtype(word))
    for shift in range(0, 8 * mask.dtype.itemsize, 8):
        counts = np.bincount(
            ((mask >> mask.dtype.type(shift)) & mask.dtype.type(255)).ravel().astype(int), minlength=256
        )
        assert chisquare(counts).pvalue > 1e-6


def test_each_bit_of_the_key_changes_half_of_the_mask():
    """A generator seeded with a reduced key would give the same mask for many keys."""
    mask = expand_mask(KEY, rows=64, columns=8, word=np.dtype("<u8"))
    for bit in range(256):
        other = bytearray(KEY)
        other[bit // 8] ^= 1 << bit % 8
        changed = expand_mask(bytes(other), rows=64, columns=8, word=np.dtype("<u8")) ^ mask
        assert 0.45 < np.unpackbits(changed.view(np.uint8)).mean() < 0.55


@given(SEEDS)
def test_a_mask_that_is_still_on_is_noticed(seed):
    soft_labels, weights = teachers(seed, 3)
    quantisation = Quantisation(32, 1.0, parties=3)
    total = sum(quantise(q, w, quantisation) for q, w in zip(soft_labels, weights, strict=True))
    mask = expand_mask(np.random.default_rng(seed).bytes(32), rows=6, columns=5, word=total.dtype)
    with pytest.raises(FederationError, match="a mask is still on"):
        dequantise(total + mask, quantisation)


@given(st.integers(2, 300))
def test_the_default_threshold_is_the_least_above_two_thirds(clients):
    threshold = default_threshold(clients)
    assert 3 * threshold > 2 * clients >= 3 * (threshold - 1)
    check_threshold(threshold, clients=clients)


@given(st.integers(0, 30), st.integers(2, 20))
def test_a_threshold_must_keep_two_halves_of_the_clients_from_both_secrets_of_one(threshold, clients):
    if clients < 2 * threshold <= 2 * clients and threshold >= 2:
        check_threshold(threshold, clients=clients)
    else:
        with pytest.raises(ConfigError, match="0 for more than two thirds"):
            check_threshold(threshold, clients=clients)
