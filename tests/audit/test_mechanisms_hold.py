"""Audits of each mechanism as the package implements it; without its noise the audit must detect the leak."""

from dataclasses import replace

import numpy as np
import pytest

from knot_fed.audit.attacks.epsilon_bound import audit_guesses
from knot_fed.audit.attacks.shadows import canary_scores, train_shadows
from knot_fed.mechanisms import mechanism_of
from knot_fed.types import LabelledTexts
from tests.audit.learners import dp_sgd, gaussian, made_up, pate

pytestmark = pytest.mark.slow

EPSILON, DELTA, CANARIES = 0.5, 1e-5, 60
SEEDS = range(3)
SETTINGS = {"privacy.epsilon": EPSILON, "privacy.delta": DELTA, "privacy.sampling-rate": 0.3, "privacy.epochs": 15}


def audited(teacher, seed):
    """Plant rare words, each with a label, and guess from a teacher's rows on which of them it was trained."""
    generator = np.random.default_rng(seed)
    words = tuple(f"rare{number}" for number in range(CANARIES))
    rare = LabelledTexts(words, generator.integers(5, size=CANARIES).astype(np.int64))
    shadows = train_shadows(teacher, made_up(20, generator), rare, count=7, generator=generator)
    return audit_guesses(*canary_scores(shadows), delta=DELTA).epsilon


@pytest.fixture(params=["dp-sgd", "pate", "gaussian"])
def mechanism(request, run_config):
    """Return the noise that the configuration requires, and a function that trains with a given noise."""
    config = run_config(keys={**SETTINGS, "privacy.mechanism": request.param, "weights.scheme": "uniform"})
    event = mechanism_of(config.privacy).noise_event(config.privacy, texts=CANARIES, asked=CANARIES)
    settings = config.teacher.model_copy(update={"epochs": 10, "learning_rate": 0.05})
    trained_by = {"dp-sgd": dp_sgd, "gaussian": gaussian, "pate": lambda noise: pate(noise, settings, shards=3)}
    return event, trained_by[request.param]


def test_the_audited_bound_stays_below_what_is_claimed(mechanism):
    event, trained_by = mechanism
    assert max(audited(trained_by(event), seed) for seed in SEEDS) <= EPSILON


def test_with_the_noise_switched_off_the_audit_exceeds_the_claim(mechanism):
    event, trained_by = mechanism
    assert audited(trained_by(replace(event, noise_multiplier=1e-4)), seed=1) > EPSILON
