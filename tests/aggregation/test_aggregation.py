import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from knot_fed import aggregation
from knot_fed.aggregation import TeacherAnswers, agreement_weights, client_weights, middle_of_teachers, pool_soft_labels
from knot_fed.errors import ConfigError

seeds = st.integers(0, 2**32 - 1)
schemes = st.sampled_from(list(aggregation.SCHEMES))
poolings = st.sampled_from(list(aggregation.POOLINGS))


def random_teachers(seed, clients=3, texts=4, classes=5):
    """Draw soft labels and answers."""
    generator = np.random.default_rng(seed)
    soft_labels = generator.dirichlet(np.ones(classes), size=(clients, texts))
    examples, confidences = generator.integers(0, 9, size=clients), generator.random((clients, texts))
    return soft_labels, TeacherAnswers(examples, confidences, soft_labels)


def ordered(answers, order):
    return TeacherAnswers(answers.examples[order], answers.confidences[order], answers.soft_labels[order])


def told(confidences, examples=None):
    """Answers with uniform soft labels."""
    confidences = np.asarray(confidences, dtype=float)
    flat = np.full((*confidences.shape, 2), 0.5)
    return TeacherAnswers(np.asarray(examples or [1] * len(confidences)), confidences, flat)


@given(seeds, schemes, st.floats(0, 50))
def test_weights_of_each_text_sum_to_one(seed, scheme, power):
    _, answers = random_teachers(seed)
    weights = client_weights(scheme, answers, power=power)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-12)
    assert (weights >= 0).all()


@given(seeds, schemes, poolings)
def test_pooled_rows_stay_on_the_simplex(seed, scheme, pooling):
    soft_labels, answers = random_teachers(seed)
    pooled = pool_soft_labels(soft_labels, client_weights(scheme, answers), pooling=pooling)
    np.testing.assert_allclose(pooled.sum(axis=1), 1.0, atol=1e-12)
    assert (pooled >= 0).all()


@given(seeds, schemes, poolings)
def test_pooling_ignores_client_order(seed, scheme, pooling):
    soft_labels, answers = random_teachers(seed)
    order = np.array([2, 0, 1])
    pooled = pool_soft_labels(soft_labels, client_weights(scheme, answers), pooling=pooling)
    shuffled = client_weights(scheme, ordered(answers, order))
    np.testing.assert_allclose(pool_soft_labels(soft_labels[order], shuffled, pooling=pooling), pooled, atol=1e-12)


@given(seeds, schemes)
def test_power_sharpens_the_weights_and_zero_makes_them_the_same(seed, scheme):
    _, answers = random_teachers(seed)
    plain, squared = (client_weights(scheme, answers, power=power) for power in (1.0, 2.0))
    np.testing.assert_allclose(client_weights(scheme, answers, power=0.0), 1 / 3)
    np.testing.assert_allclose(squared, plain**2 / (plain**2).sum(axis=0), atol=1e-12)
    assert (squared.max(axis=0) >= plain.max(axis=0) - 1e-12).all()


@given(seeds)
def test_certainty_falls_with_entropy(seed):
    soft_labels, answers = random_teachers(seed)
    by_scipy = 1 - entropy(soft_labels, axis=2) / np.log(5)
    np.testing.assert_allclose(client_weights("certainty", answers), by_scipy / by_scipy.sum(axis=0), atol=1e-9)


def test_one_hot_teachers_count_and_flat_ones_do_not():
    soft_labels = np.array([[[1.0, 0.0]], [[0.5, 0.5]]])
    answers = TeacherAnswers(np.array([1, 1]), np.zeros((2, 1)), soft_labels)
    np.testing.assert_allclose(client_weights("certainty", answers), [[1.0], [0.0]], atol=1e-12)


def test_a_text_without_confidence_is_weighed_uniformly():
    weights = client_weights("confidence", told([[0.0, 1.0], [0.0, 3.0]]))
    np.testing.assert_allclose(weights, [[0.5, 0.25], [0.5, 0.75]])


def test_a_client_that_keeps_its_size_counts_as_the_mean():
    answers = told(np.zeros((3, 1)), examples=[0, 1, 3])
    np.testing.assert_allclose(client_weights("size", answers)[:, 0], [1 / 3, 1 / 6, 1 / 2])


def log_size(answers):
    """A plug-in scheme, found by its name in this module."""
    return np.repeat(np.log1p(answers.examples)[:, None], answers.confidences.shape[1], axis=1)


def of_wrong_shape(answers):
    return answers.examples


def of_wrong_sign(answers):
    return -answers.confidences


def test_a_users_own_function_is_the_scheme():
    answers = told(np.zeros((2, 3)), examples=[1, 3])
    weights = client_weights("tests.aggregation.test_aggregation:log_size", answers)
    np.testing.assert_allclose(weights, np.repeat([[1 / 3], [2 / 3]], 3, axis=1))


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ("loudest", "unknown name; use uniform, size"),
        ("tests.aggregation.test_aggregation:missing", "cannot be imported"),
        ("tests.aggregation.test_aggregation:of_wrong_shape", r"shape \(2,\), expected \(2, 3\)"),
        ("tests.aggregation.test_aggregation:of_wrong_sign", "6 of 6 scores are negative or not finite"),
    ],
)
def test_a_scheme_that_cannot_weigh_is_refused(scheme, reason):
    with pytest.raises(ConfigError, match=reason):
        client_weights(scheme, told(np.ones((2, 3))))


def test_an_unknown_pooling_is_refused_with_the_known_names():
    with pytest.raises(ConfigError, match="'odd': unknown pooling; use mean, era, median, trimmed-mean"):
        pool_soft_labels(np.full((1, 1, 2), 0.5), np.ones((1, 1)), pooling="odd")


def with_adversary(seed, classes):
    """Draw 4 honest teachers that give the last label little mass, and one that gives it all."""
    generator = np.random.default_rng(seed)
    truth = np.concatenate([generator.dirichlet(np.ones(classes - 1), size=(4, 3)), np.zeros((4, 3, 1))], axis=2)
    honest = 0.8 * truth + 0.2 * generator.dirichlet(np.ones(classes), size=(4, 3))
    adversary = np.broadcast_to(np.eye(classes)[-1], (1, 3, classes))
    return honest, np.concatenate([honest, adversary])[generator.permutation(5)]


@given(seeds, st.sampled_from([0.2, 0.5]), st.integers(2, 7))
def test_the_middle_of_five_teachers_stays_within_the_honest_four_and_their_mean_does_not(seed, trim, classes):
    honest, teachers = with_adversary(seed, classes)
    middle = middle_of_teachers(teachers, trim=trim)
    assert (middle >= honest.min(axis=0) - 1e-12).all()
    assert (middle <= honest.max(axis=0) + 1e-12).all()
    mean = pool_soft_labels(teachers, np.full((5, 3), 1 / 5))
    assert (mean[:, -1] > honest[:, :, -1].max(axis=0)).all()


@given(seeds, st.sampled_from(["median", "trimmed-mean"]))
def test_on_two_labels_the_middle_needs_no_renormalising(seed, pooling):
    honest, teachers = with_adversary(seed, 2)
    pooled = pool_soft_labels(teachers, np.full((5, 3), 1 / 5), pooling=pooling)
    assert (pooled[:, -1] <= honest[:, :, -1].max(axis=0) + 1e-12).all()


@given(seeds, st.integers(1, 9))
def test_trimming_one_half_is_the_median(seed, clients):
    soft_labels, _ = random_teachers(seed, clients=clients)
    np.testing.assert_allclose(middle_of_teachers(soft_labels, trim=0.5), np.median(soft_labels, axis=0))


def test_teachers_without_a_common_label_are_pooled_by_their_mean():
    one_hot = np.eye(3)[:, None]
    pooled = pool_soft_labels(one_hot, np.array([[0.5], [0.3], [0.2]]), pooling="median")
    np.testing.assert_allclose(pooled, [[0.5, 0.3, 0.2]])


@given(seeds, st.floats(0, 20))
def test_texts_weighed_by_agreement_have_a_mean_of_one(seed, power):
    soft_labels, answers = random_teachers(seed)
    weights = client_weights("uniform", answers)
    shares = agreement_weights(soft_labels, weights, pool_soft_labels(soft_labels, weights), power=power)
    assert shares.mean() == pytest.approx(1)
    assert (shares >= 0).all()
    if power == 0:
        np.testing.assert_array_equal(shares, 1.0)


def test_a_text_on_which_teachers_agree_counts_most():
    soft_labels = np.array([[[1.0, 0.0]] * 3, [[1.0, 0.0], [0.6, 0.4], [0.0, 1.0]]])
    weights = np.full((2, 3), 0.5)
    shares = agreement_weights(soft_labels, weights, pool_soft_labels(soft_labels, weights), power=1.0)
    np.testing.assert_allclose(shares, np.array([1.0, 0.8, 0.5]) / np.mean([1.0, 0.8, 0.5]))
