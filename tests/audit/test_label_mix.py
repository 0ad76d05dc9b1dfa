import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from knot_fed.audit.attacks.label_mix import (
    adapted_prior,
    inferred_mixes,
    mix_errors,
    training_prior,
    trilaterated_bias,
)
from knot_fed.training.confidence import prediction_confidence

seeds = st.integers(0, 2**32 - 1)


def posteriors(seed, prior, mix, *, texts=5_000, apart=1.5):
    """Exact posteriors of a model trained on one label mix for texts of another; features normal around each label."""
    generator = np.random.default_rng(seed)
    classes = len(prior)
    labels = generator.choice(classes, size=texts, p=mix)
    features = generator.standard_normal((texts, classes)) + apart * np.eye(classes)[labels]
    return softmax(apart * features + np.log(prior), axis=1)


def mixes(seed, classes=4):
    generator = np.random.default_rng(seed)
    return (0.9 * generator.dirichlet(np.ones(classes), size=2) + 0.1 / classes).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_em_recovers_the_mix_of_texts_and_its_inverse_the_mix_of_training(seed):
    prior, mix = map(np.array, mixes(seed))
    answers = posteriors(seed, prior, mix)
    np.testing.assert_allclose(adapted_prior(answers, prior), mix, atol=0.04)
    np.testing.assert_allclose(training_prior(answers, mix), prior, atol=0.04)
    assert np.abs(answers.mean(axis=0) - prior).max() > np.abs(training_prior(answers, mix) - prior).max() - 0.02


@given(seeds)
def test_soft_labels_and_confidences_give_the_prediction_bias_away(seed):
    generator = np.random.default_rng(seed)
    answers = generator.dirichlet(np.ones(5), size=50).astype(np.float32)
    bias = generator.dirichlet(np.ones(5)).astype(np.float32)
    np.testing.assert_allclose(trilaterated_bias(answers, prediction_confidence(answers, bias)), bias, atol=1e-3)


@given(seeds)
def test_errors_of_a_mix_are_scipys_and_zero_only_for_the_truth(seed):
    true, inferred = map(np.array, mixes(seed))
    errors = mix_errors(true, inferred)
    assert errors["kl"] == pytest.approx(entropy(true, inferred), abs=1e-9)
    assert errors["total_variation"] == pytest.approx(np.abs(true - inferred).sum() / 2)
    assert mix_errors(true, true) == {"kl": pytest.approx(0), "total_variation": 0}


@given(seeds)
def test_every_inferred_mix_is_a_distribution(seed):
    generator = np.random.default_rng(seed)
    answers, public = generator.dirichlet(np.full(4, 0.3), size=(2, 30))
    found = inferred_mixes(answers, public_answers=public, public_mix=np.array([0.5, 0.5, 0.0, 0.0]))
    for mix in found.values():
        assert mix.sum() == pytest.approx(1)
        assert (mix >= 0).all()
