import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import beta, norm

from knot_fed.audit.attacks.epsilon_bound import audit_guesses, epsilon_lower_bound, p_value

counts = st.integers(1, 60).flatmap(
    lambda canaries: st.integers(1, canaries).flatmap(
        lambda guesses: st.tuples(st.just(canaries), st.just(guesses), st.integers(0, guesses))
    )
)
epsilons = st.floats(0, 6)
deltas = st.sampled_from([0.0, 1e-6, 1e-4, 1e-2])


def keyed(numbers):
    return dict(zip(("canaries", "guesses", "right"), numbers, strict=True))


@given(counts, epsilons, deltas)
def test_the_chance_of_right_guesses_grows_with_epsilon_and_with_delta(numbers, epsilon, delta):
    chance = p_value(**keyed(numbers), epsilon=epsilon, delta=delta)
    assert 0 <= chance <= 1
    assert chance >= p_value(**keyed(numbers), epsilon=epsilon, delta=0.0) - 1e-12
    if delta == 0:
        assert chance <= p_value(**keyed(numbers), epsilon=epsilon + 0.5, delta=0.0) + 1e-12


@given(counts, epsilons)
def test_without_delta_the_chance_is_that_of_randomised_response(numbers, epsilon):
    _, guesses, right = numbers
    by_beta = 1.0 if right == 0 else float(beta.cdf(expit(epsilon), right, guesses - right + 1))
    assert p_value(**keyed(numbers), epsilon=epsilon, delta=0.0) == pytest.approx(by_beta, abs=1e-9)


@given(counts, epsilons, st.sampled_from([1e-4, 1e-2]))
def test_the_share_of_delta_is_that_of_the_theorem_summed_term_by_term(numbers, epsilon, delta):
    canaries, guesses, right = numbers
    pmf = np.array([_binomial(guesses, k, expit(epsilon)) for k in range(guesses + 1)])
    slopes = [pmf[max(right - i, 0) : right].sum() / i for i in range(1, canaries + 1)]
    expected = min(1.0, pmf[right:].sum() + 2 * canaries * delta * max(slopes))
    assert p_value(**keyed(numbers), epsilon=epsilon, delta=delta) == pytest.approx(expected, abs=1e-9)


def _binomial(n, k, p):
    logs = np.sum(np.log(np.arange(n - k + 1, n + 1))) - np.sum(np.log(np.arange(1, k + 1)))
    return float(np.exp(logs + k * np.log(p) + (n - k) * np.log1p(-p)))


@given(counts, deltas)
def test_the_bound_is_the_epsilon_at_which_the_guesses_stop_being_a_surprise(numbers, delta):
    bound = epsilon_lower_bound(**keyed(numbers), delta=delta)
    at_bound = p_value(**keyed(numbers), epsilon=bound.epsilon, delta=delta)
    assert at_bound == pytest.approx(0.05, abs=1e-6) if 0 < bound.epsilon < 60 else True
    if bound.epsilon == 0:
        assert p_value(**keyed(numbers), epsilon=0.0, delta=delta) >= 0.05 - 1e-12


@pytest.mark.parametrize("guesses", [10, 100, 1000])
def test_all_right_guesses_prove_as_much_as_the_chance_of_one_allows(guesses):
    bound = epsilon_lower_bound(canaries=guesses, guesses=guesses, right=guesses, delta=0.0)
    chance = 0.05 ** (1 / guesses)
    assert bound.epsilon == pytest.approx(np.log(chance / (1 - chance)), rel=1e-6)


def test_half_right_guesses_prove_nothing():
    assert epsilon_lower_bound(canaries=100, guesses=100, right=50, delta=1e-5).epsilon == 0


def randomised_response(epsilon, canaries, generator):
    """Scores of a mechanism that is exactly epsilon-DP: it reports each coin correctly with the maximum chance."""
    included = generator.random(canaries) < 0.5
    told = np.where(generator.random(canaries) < expit(epsilon), included, ~included)
    return told + generator.random(canaries) / 2, included


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_the_bound_exceeds_the_epsilon_of_randomised_response_in_at_most_one_of_twenty_runs(epsilon):
    generator = np.random.default_rng(1)
    bounds = [audit_guesses(*randomised_response(epsilon, 500, generator), delta=0.0).epsilon for _ in range(200)]
    assert np.mean(np.array(bounds) > epsilon) <= 0.05
    if epsilon:
        assert np.median(bounds) > 0.4 * epsilon


def gaussian(sigma, canaries, generator):
    """Scores of a Gaussian mechanism of sensitivity 1."""
    included = generator.random(canaries) < 0.5
    return included + sigma * generator.standard_normal(canaries), included


def gaussian_delta(sigma, epsilon):
    """Delta of a Gaussian mechanism of sensitivity 1 (Balle and Wang 2018, theorem 8)."""
    upper, lower = 0.5 / sigma - epsilon * sigma, -0.5 / sigma - epsilon * sigma
    return norm.cdf(upper) - np.exp(epsilon) * norm.cdf(lower)


@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_the_bound_stays_below_the_epsilon_of_a_gaussian_and_passes_it_when_the_noise_is_off(sigma):
    delta = 1e-5

    claimed = brentq(lambda epsilon: gaussian_delta(sigma, epsilon) - delta, 0.0, 30.0)
    generator = np.random.default_rng(2)
    bounds = [audit_guesses(*gaussian(sigma, 1000, generator), delta=delta).epsilon for _ in range(40)]
    assert np.mean(np.array(bounds) > claimed) <= 0.05
    assert audit_guesses(*gaussian(0.0, 1000, generator), delta=delta).epsilon > claimed
