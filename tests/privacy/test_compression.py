import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.errors import SoftLabelsError
from knot_fed.labels import check_soft_labels
from knot_fed.privacy.compression import compress, decompress, layout

SIGNALLING_NAN = np.array([[0x7C01, 0x3C00]], np.uint16).view(np.float16)
SCHEMES = ["none", "float16", "uint8", "top-k", "hard"]


def drawn(seed, classes, rows=7):
    concentration = np.random.default_rng(seed).choice([0.05, 1.0, 20.0])
    return np.random.default_rng(seed).dirichlet(np.full(classes, concentration), size=rows).astype(np.float32)


@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 9), st.sampled_from(SCHEMES))
def test_what_travels_has_the_layout_and_comes_back_as_distributions_with_the_same_first_label(
    seed, classes, k, scheme
):
    soft_labels = drawn(seed, classes)
    sent = compress(soft_labels, scheme, top_k=k)
    expected = layout(scheme, examples=7, classes=classes, top_k=k)
    assert {name: (array.shape, array.dtype) for name, array in sent.items()} == expected
    back = decompress(sent, scheme, classes=classes)
    check_soft_labels(back)
    top = np.take_along_axis(back, soft_labels.argmax(axis=1)[:, None], axis=1)[:, 0]
    assert (top >= back.max(axis=1) - 5e-3).all()


@given(st.integers(0, 10**6), st.integers(2, 9))
def test_quantised_rows_are_as_near_as_their_grid(seed, classes):
    soft_labels = drawn(seed, classes)
    for scheme, step in (("none", 0.0), ("float16", 1e-3), ("uint8", 1 / 255)):
        back = decompress(compress(soft_labels, scheme, top_k=1), scheme, classes=classes)
        assert np.abs(back - soft_labels).max() <= step + 1e-6


def test_bytes_shrink_in_the_order_promised():
    soft_labels = drawn(0, 5, rows=1000)
    sizes = [sum(array.nbytes for array in compress(soft_labels, scheme, top_k=2).values()) for scheme in SCHEMES]
    assert sizes == [20000, 10000, 5000, 8000, 2000]


@pytest.mark.parametrize(
    ("scheme", "arrays"),
    [
        ("float16", {"soft-labels": np.full((1, 2), 0.7, np.float16)}),
        ("float16", {"soft-labels": np.full((1, 2), np.nan, np.float16)}),
        ("float16", {"soft-labels": SIGNALLING_NAN}),
        ("uint8", {"soft-labels": np.zeros((1, 2), np.uint8)}),
        ("hard", {"soft-labels": np.array([2], np.uint16)}),
        ("top-k", {"soft-labels": np.array([[0.5, 0.5]], np.float16), "kept-labels": np.array([[1, 1]], np.uint16)}),
        ("top-k", {"soft-labels": np.array([[0.5, 0.9]], np.float16), "kept-labels": np.array([[0, 1]], np.uint16)}),
        ("top-k", {"soft-labels": SIGNALLING_NAN, "kept-labels": np.array([[0, 1]], np.uint16)}),
        ("top-k", {"soft-labels": np.array([[np.nan]], np.float16), "kept-labels": np.array([[1]], np.uint16)}),
        ("top-k", {"soft-labels": np.array([[-0.5, 1]], np.float16), "kept-labels": np.array([[0, 1]], np.uint16)}),
    ],
)
def test_what_no_client_compresses_to_is_refused(scheme, arrays):
    with pytest.raises(SoftLabelsError, match="use compress"):
        decompress(arrays, scheme, classes=2)
