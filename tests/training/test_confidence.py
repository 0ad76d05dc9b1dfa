import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from knot_fed.config import SCHEMES
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, build_classifier, predict_logits
from knot_fed.training.confidence import (
    RANDOM_SEQUENCES,
    prediction_bias,
    prediction_confidence,
    teacher_scores,
    text_density,
)
from knot_fed.training.teacher import predict_soft_labels

TEXTS = ["the room was clean", "a fine phone", "nothing works"]
vocabulary = st.sampled_from(["room", "clean", "phone", "fine", "battery", "dead", "bond", "yield"])
words = st.lists(vocabulary, min_size=1, max_size=6)
texts = st.lists(words.map(" ".join), min_size=1, max_size=15)


@pytest.fixture(scope="module")
def teacher():
    return build_classifier(ModelSpec("ngram-bag", "all", LabelSpace.preset("nli").names, False, 32, ()), seed=0)


def scores(teacher, scheme):
    soft_labels = predict_soft_labels(teacher, TEXTS)
    return teacher_scores(scheme, [teacher], soft_labels, texts=TEXTS, private=["a clean room", "fine"], seed=1)


@pytest.mark.parametrize("scheme", [name for name, facts in SCHEMES.items() if facts.reads in ("nothing", "examples")])
def test_a_scheme_that_reads_no_score_is_sent_none(teacher, scheme):
    assert not scores(teacher, scheme).any()


def test_each_scheme_is_sent_its_own_score(teacher):
    soft_labels = predict_soft_labels(teacher, TEXTS)
    bias = prediction_bias([teacher], seed=1)
    np.testing.assert_array_equal(scores(teacher, "confidence"), prediction_confidence(soft_labels, bias))
    np.testing.assert_array_equal(scores(teacher, "my.own:scheme"), scores(teacher, "confidence"))
    np.testing.assert_array_equal(scores(teacher, "density"), text_density(TEXTS, ["a clean room", "fine"]))
    assert (scores(teacher, "histogram-confidence") != scores(teacher, "confidence")).any()


def test_the_histogram_counts_every_random_sequence_and_one_more_for_each_label(teacher):
    items = teacher.random_items(np.random.default_rng(1), RANDOM_SEQUENCES)
    says = softmax(predict_logits(teacher, items), axis=1).argmax(axis=1)
    expected = [(np.sum(says == label) + 1) / (RANDOM_SEQUENCES + 3) for label in range(3)]
    bias = prediction_bias([teacher], seed=1, histogram=True)
    np.testing.assert_allclose(bias, expected)


@given(texts, texts)
@settings(max_examples=30)
def test_density_is_a_mean_of_cosines_that_ignores_the_order_of_private_texts(public, private):
    density = text_density(public, private)
    assert ((density >= 0) & (density <= 1)).all()
    np.testing.assert_allclose(text_density(public, private[::-1]), density, atol=1e-6)


def test_a_private_text_is_as_dense_as_can_be_and_an_unlike_one_not_at_all():
    density = text_density(["clean rooms", "bond yields"], ["clean rooms"] * 20)
    np.testing.assert_allclose(density, [1.0, 0.0], atol=1e-6)


def test_only_the_ten_nearest_private_texts_count():
    near, far = ["clean rooms"] * 10, ["quarterly bond yields"] * 90
    np.testing.assert_allclose(text_density(["clean rooms"], near + far), [1.0], atol=1e-6)
    assert text_density(["clean rooms"], near[:5] + far)[0] == pytest.approx(0.5)


def test_pairs_are_read_whole():
    density = text_density([("a clean room", "the hall"), ("bond", "yields")], [("the hall", "a clean room")] * 10)
    np.testing.assert_allclose(density, [1.0, 0.0], atol=1e-6)
