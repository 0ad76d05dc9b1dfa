import numpy as np
import pytest

from knot_fed.audit.attacks.epsilon_bound import audit_guesses
from knot_fed.audit.attacks.shadows import canary_scores, train_shadows
from knot_fed.types import LabelledTexts
from tests.audit.learners import gaussian_epsilon, gaussian_prototypes, made_up

DELTA = 1e-5


def audited(noise, seed, *, canaries=300):
    """Audit a teacher trained by one Gaussian release; the canaries are rare texts, each with its own label."""
    generator = np.random.default_rng(seed)
    always = made_up(200, generator)
    texts = tuple(f"rare{number}" for number in range(canaries))
    rare = LabelledTexts(texts, np.zeros(canaries, dtype=np.int64))
    shadows = train_shadows(gaussian_prototypes(noise), always, rare, count=7, generator=generator)
    return audit_guesses(*canary_scores(shadows), delta=DELTA).epsilon


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_the_audited_bound_of_a_gaussian_teacher_stays_below_what_is_claimed_over_all_seeds(noise):
    claimed = gaussian_epsilon(noise, DELTA)
    bounds = [audited(noise, seed) for seed in range(20)]
    assert max(bounds) <= claimed


def test_with_the_noise_switched_off_the_audit_exceeds_the_claim():
    assert audited(0.0, seed=1) > gaussian_epsilon(2.0, DELTA)


def test_the_audit_of_a_noisy_teacher_is_not_vacuous():
    assert np.median([audited(0.5, seed) for seed in range(10)]) > 0.2
