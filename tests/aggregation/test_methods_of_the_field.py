"""The weights and poolings of other methods: each against the formula of its paper, computed another way."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.aggregation import (
    TeacherAnswers,
    check_texts_teach,
    client_weights,
    consensus_of_pooled,
    find_consensus,
    pool_soft_labels,
    single_weights,
)
from knot_fed.config import DistillConfig, WeightsConfig
from knot_fed.errors import ConfigError
from knot_fed.types import TeacherAnswer

SEEDS = st.integers(0, 2**32 - 1)
POOLED = DistillConfig(objective="pooled")


def drawn(seed, clients=3, texts=4, classes=5):
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.full(classes, 0.5), size=(clients, texts))


def answers_of(soft_labels, scores=None):
    scores = np.zeros(soft_labels.shape[:2]) if scores is None else np.asarray(scores, dtype=float)
    return TeacherAnswers(np.ones(len(soft_labels), dtype=int), scores, soft_labels)


@given(SEEDS, st.sampled_from([0.05, 0.1, 1.0]))
def test_era_is_the_softmax_of_the_plain_mean_over_the_temperature(seed, temperature):
    soft_labels = drawn(seed)
    uniform = np.full((3, 4), 1 / 3)
    found = pool_soft_labels(soft_labels, uniform, pooling="era", temperature=temperature)
    for text in range(4):
        mean = [sum(soft_labels[client, text, label] for client in range(3)) / 3 for label in range(5)]
        powers = [math.exp(value / temperature) for value in mean]
        np.testing.assert_allclose(found[text], [power / sum(powers) for power in powers], atol=1e-12)


@given(SEEDS)
def test_era_at_a_tenth_reduces_the_entropy_of_a_mean_with_a_clear_winner(seed):
    mean = np.sort(drawn(seed, clients=1, texts=1)[0])[:, ::-1]
    if mean[0, 0] - mean[0, 1] < 0.3:
        return
    sharpened = pool_soft_labels(mean[None], np.ones((1, 1)), pooling="era", temperature=0.1)
    assert sharpened.max() > 0.95 * mean.max()


@given(SEEDS)
def test_variance_weights_are_variances_over_their_sum(seed):
    soft_labels = drawn(seed)
    weights = client_weights("variance", answers_of(soft_labels))
    for text in range(4):
        variances = []
        for client in range(3):
            row = soft_labels[client, text]
            variances.append(sum((value - 1 / 5) ** 2 for value in row) / 5)
        np.testing.assert_allclose(weights[:, text], np.array(variances) / sum(variances), atol=1e-9)


def test_adafd_with_a_power_of_five_is_the_authors_softmax_of_losses():
    losses = np.array([0.1, 0.7, 1.5])
    scores = np.repeat(np.exp(-losses)[:, None], 2, axis=1)
    weights = client_weights("adafd", answers_of(drawn(1, texts=2), scores), power=5.0)
    expected = [math.exp(-5 * loss) / sum(math.exp(-5 * other) for other in losses) for loss in losses]
    np.testing.assert_allclose(weights, np.repeat(np.array(expected)[:, None], 2, axis=1), rtol=1e-6)


def consensus(soft_labels, scores, weighting, settings=POOLED):
    answers = [
        TeacherAnswer(rows.astype(np.float32), np.asarray(score, dtype=np.float32), 1)
        for rows, score in zip(soft_labels, scores, strict=True)
    ]
    return find_consensus(answers, weighting, settings)


@pytest.mark.parametrize("objective", ["pooled", "per-teacher"])
def test_selective_pools_each_text_over_the_teachers_that_selected_it_and_drops_it_if_none_did(objective):
    soft_labels, selected = drawn(3), [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]]
    found = consensus(soft_labels, selected, WeightsConfig(scheme="selective"), DistillConfig(objective=objective))
    np.testing.assert_allclose(found.pooled[0], (soft_labels[0, 0] + soft_labels[1, 0]) / 2, atol=1e-6)
    np.testing.assert_allclose(found.pooled[1], soft_labels[1, 1], atol=1e-6)
    np.testing.assert_allclose(found.weights.sum(axis=0), [4 / 3, 4 / 3, 0, 4 / 3])


def test_a_federation_that_withholds_all_selections_is_weighted_uniformly():
    soft_labels = drawn(3)
    found = consensus(soft_labels, np.zeros((3, 4)), WeightsConfig(scheme="selective"))
    np.testing.assert_allclose(found.pooled, soft_labels.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.weights, 1.0)


def test_texts_of_an_ambiguous_ensemble_are_left_out():
    soft_labels = np.array([[[0.98, 0.01, 0.01], [0.4, 0.3, 0.3]]])
    weighting = WeightsConfig(scheme="uniform", most_entropy=0.9)
    entropies = [-sum(value * math.log(value) for value in row) / math.log(3) for row in soft_labels[0]]
    assert entropies[0] < 0.9 < entropies[1]
    assert consensus(soft_labels, np.zeros((1, 2)), weighting).weights.tolist() == [[2.0, 0.0]]
    assert consensus_of_pooled(soft_labels[0], weighting).weights.tolist() == [[2.0, 0.0]]
    assert consensus_of_pooled(soft_labels[0], WeightsConfig()).weights.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("find", [lambda rows, weighting: consensus(rows[None], np.zeros((1, 2)), weighting),
                                  lambda rows, weighting: consensus_of_pooled(rows, weighting)])  # fmt: skip
def test_a_bound_on_the_entropy_that_too_few_texts_meet_is_refused_and_the_least_is_told(find):
    rows = np.array([[0.98, 0.01, 0.01], [0.4, 0.3, 0.3]])
    largest = max(-sum(value * math.log(value) for value in row) / math.log(3) for row in rows)
    least = math.ceil(1e3 * largest) / 1e3
    for most, said in ((0.01, "none of 2 transfer texts"), (0.5, "1 of 2 transfer texts")):
        weighting = WeightsConfig(scheme="uniform", most_entropy=most)
        with pytest.raises(ConfigError, match=f"weights leave {said}.*most-entropy = {most}.* use at least {least}$"):
            check_texts_teach(find(rows, weighting), weighting)
    enough = WeightsConfig(scheme="uniform", most_entropy=least)
    check_texts_teach(find(rows, enough), enough)


def test_a_selection_that_one_text_passes_is_refused():
    weighting, rows = WeightsConfig(scheme="selective"), np.full((3, 2), 0.5)
    with pytest.raises(
        ConfigError, match=r"weights leave 1 of 3 .* use more transfer texts, or another weights.scheme"
    ):
        check_texts_teach(consensus_of_pooled(rows, weighting, np.array([0.0, 1.0, 0.0])), weighting)


def test_no_agreement_brings_no_text_back_that_was_left_out():
    rows = np.array([[[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0], [0.5, 0.5]]])
    weighting = WeightsConfig(scheme="selective")
    found = consensus(rows, [[1, 1, 0], [1, 1, 0]], weighting, DistillConfig(objective="pooled", agreement=1.0))
    assert found.weights.tolist() == [[1.5, 1.5, 0.0]]


@pytest.mark.parametrize("scheme", ["certainty", "variance"])
def test_an_owner_of_one_label_has_no_weight_however_sure_it_is(scheme):
    soft_labels = np.concatenate([drawn(1), np.tile([0.02, 0.02, 0.02, 0.02, 0.92], (1, 4, 1))])
    weighting = WeightsConfig(scheme=scheme)
    found, without = (consensus(rows, np.zeros(rows.shape[:2]), weighting) for rows in (soft_labels, soft_labels[:3]))
    np.testing.assert_array_equal(found.pooled, without.pooled)
    one, texts = TeacherAnswer(soft_labels[3], np.zeros(4), 10), TeacherAnswer(soft_labels[0], np.zeros(4), 10)
    assert not single_weights(scheme, one).any()
    assert single_weights(scheme, texts).all()
    alone = consensus(soft_labels[3:], np.zeros((1, 4)), weighting)
    np.testing.assert_allclose(alone.pooled, soft_labels[3], atol=1e-7)


def test_what_a_sum_selects_is_left_out_as_without_it():
    rows = np.array([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.4, 0.3, 0.3]])
    weighting = WeightsConfig(scheme="selective", most_entropy=0.9)
    found = consensus_of_pooled(rows, weighting, np.array([1.0, 0.0, 1.0]))
    assert found.weights.tolist() == [[3.0, 0.0, 0.0]]
