import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from knot_fed.aggregation import (
    POOLINGS,
    SCHEMES,
    TeacherAnswers,
    agreement_weights,
    client_weights,
    consensus,
    find_consensus,
    pool_soft_labels,
)
from knot_fed.config import DistillConfig, WeightsConfig
from knot_fed.config.choices import WEIGHTED
from knot_fed.types import TeacherAnswer


def answers_of(teachers, texts, classes=5, seed=0):
    generator = np.random.default_rng(seed)
    return [
        TeacherAnswer(
            generator.dirichlet(np.full(classes, 0.4), size=texts).astype(np.float32),
            generator.random(texts).astype(np.float32),
            int(generator.integers(0, 50)),
        )
        for _ in range(teachers)
    ]


def plain(answers, weighting, settings):
    """Weight and pool all texts at once: targets, weights and pooled soft labels by the formulas."""
    stacked = TeacherAnswers.stack(answers)
    weights = client_weights(weighting.effective_scheme, stacked, power=weighting.power)
    pooled = pool_soft_labels(stacked.soft_labels, weights, pooling=weighting.pooling, trim=weighting.trim)
    shares = agreement_weights(stacked.soft_labels, weights, pooled, power=settings.agreement)
    if settings.objective == "pooled":
        return pooled[None], shares[None], pooled
    return stacked.soft_labels, weights * shares, pooled


@pytest.mark.parametrize("texts", [1, 2, 5, 37])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_slices_of_texts_give_the_plain_formula_to_the_last_bit(scheme, pooling, texts, monkeypatch):
    monkeypatch.setattr(consensus, "VALUES_AT_ONCE", 1)
    answers = answers_of(150, texts)
    weighting = WeightsConfig(scheme=scheme, power=1.5, pooling=pooling)
    for objective in ("pooled", "per-teacher"):
        settings = DistillConfig(objective=objective, agreement=2.0)
        found = find_consensus(answers, weighting, settings)
        for got, wanted in zip(
            (found.targets, found.weights, found.pooled), plain(answers, weighting, settings), strict=True
        ):
            assert got.shape == wanted.shape
            assert (got == wanted).all()


@pytest.mark.parametrize("scheme", [*SCHEMES, "no.module:function"])
@pytest.mark.parametrize("pooling", sorted({*POOLINGS} - {*WEIGHTED}))
def test_a_pooling_without_weights_reads_no_scheme(scheme, pooling):
    answers = [replace(answer, scores=np.zeros_like(answer.scores)) for answer in answers_of(2, 3)] + answers_of(1, 3)
    answers[2].scores[:2] = 0.0
    settings = DistillConfig(objective="pooled", agreement=2.0)
    uniform, found = (
        find_consensus(answers, WeightsConfig(scheme=name, power=3.0, pooling=pooling), settings)
        for name in ("uniform", scheme)
    )
    assert (found.weights == uniform.weights).all()
    assert (found.pooled == uniform.pooled).all()


def test_a_plug_in_scheme_sees_all_texts_at_once(monkeypatch):
    monkeypatch.setattr(consensus, "VALUES_AT_ONCE", 1)
    weighting = WeightsConfig(scheme=f"{__name__}:scores_by_the_longest_row")
    found = find_consensus(answers_of(3, 20), weighting, DistillConfig())
    assert (found.weights == plain(answers_of(3, 20), weighting, DistillConfig())[1]).all()


def scores_by_the_longest_row(answers):
    assert answers.soft_labels.dtype == np.float64
    return answers.confidences / answers.confidences.max(axis=1, keepdims=True)


@pytest.mark.parametrize("objective", ["pooled", "per-teacher"])
def test_the_memory_of_a_consensus_is_a_small_multiple_of_the_answers(objective):
    answers = answers_of(200, 2000)
    size = sum(answer.soft_labels.nbytes for answer in answers)
    settings = DistillConfig(objective=objective)
    tracemalloc.start()
    found = find_consensus(answers, WeightsConfig(), settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * size + found.targets.nbytes + found.weights.nbytes + 8 * 8 * consensus.VALUES_AT_ONCE
