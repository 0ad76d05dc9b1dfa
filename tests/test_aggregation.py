import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.aggregation import client_weights, pool_soft_labels
from knot_fed.errors import ConfigError

seeds = st.integers(0, 2**32 - 1)
schemes = st.sampled_from(["uniform", "size", "confidence"])


def random_teachers(seed, clients=3, texts=4, classes=5):
    generator = np.random.default_rng(seed)
    soft_labels = generator.dirichlet(np.ones(classes), size=(clients, texts))
    return soft_labels, generator.integers(0, 9, size=clients), generator.random((clients, texts))


@given(seeds, schemes)
def test_weights_of_each_text_sum_to_one(seed, scheme):
    _, examples, confidences = random_teachers(seed)
    weights = client_weights(scheme, examples=examples, confidences=confidences)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-12)
    assert (weights >= 0).all()


@given(seeds, schemes)
def test_pooled_rows_stay_on_the_simplex(seed, scheme):
    soft_labels, examples, confidences = random_teachers(seed)
    pooled = pool_soft_labels(soft_labels, client_weights(scheme, examples=examples, confidences=confidences))
    np.testing.assert_allclose(pooled.sum(axis=1), 1.0, atol=1e-12)
    assert (pooled >= 0).all()


@given(seeds, schemes)
def test_pooling_ignores_client_order(seed, scheme):
    soft_labels, examples, confidences = random_teachers(seed)
    order = np.array([2, 0, 1])
    pooled = pool_soft_labels(soft_labels, client_weights(scheme, examples=examples, confidences=confidences))
    shuffled = client_weights(scheme, examples=examples[order], confidences=confidences[order])
    np.testing.assert_allclose(pool_soft_labels(soft_labels[order], shuffled), pooled, atol=1e-12)


def test_a_text_without_confidence_is_weighed_uniformly():
    weights = client_weights("confidence", examples=np.array([1, 1]), confidences=np.array([[0.0, 1.0], [0.0, 3.0]]))
    np.testing.assert_allclose(weights, [[0.5, 0.25], [0.5, 0.75]])


def test_a_client_that_keeps_its_size_counts_as_the_mean():
    weights = client_weights("size", examples=np.array([0, 1, 3]), confidences=np.zeros((3, 1)))
    np.testing.assert_allclose(weights[:, 0], [1 / 3, 1 / 6, 1 / 2])


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ConfigError, match="no such scheme"):
        client_weights("loudest", examples=np.array([1]), confidences=np.zeros((1, 1)))
