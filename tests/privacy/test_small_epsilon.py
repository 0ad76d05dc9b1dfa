"""Noise for any epsilon of the range, including small ones, checked by methods other than the solver's."""

import math
import tracemalloc
import warnings

import dp_accounting
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.special import log_ndtr

from knot_fed.privacy.accounting import (
    LEAST_SAMPLED_NOISE,
    NoiseEvent,
    composed_epsilon,
    dp_sgd_epsilon,
    gaussian_epsilon,
    noise_for_dp_sgd,
    noise_for_gaussian,
)

DELTA = 1e-5
QUICK = [
    (epsilon, DELTA, rate, steps)
    for epsilon in (0.01, 0.1, 0.5, 8.0, 1000.0)
    for rate, steps in ((0.05, 400), (0.05, 1), (0.5, 20), (1.0, 400), (1.0, 10**6))
] + [
    (0.01, DELTA, 1e-4, 10**6), (0.01, DELTA, 1e-4, 10**4), (0.01, DELTA, 0.5, 10**6), (1.0, DELTA, 0.999, 10**6),
    (0.01, 1e-12, 1.0, 400), (0.1, 1e-12, 0.05, 400), (1.0, 1e-9, 0.01, 10**6), (0.01, 0.1, 0.5, 400),
    (1000.0, 1e-9, 0.05, 400),
]  # fmt: skip
WHOLE = [
    (epsilon, delta, rate, steps)
    for epsilon in (0.01, 0.1, 1.0, 30.0, 1000.0)
    for delta in (0.1, 1e-5, 1e-12)
    for rate in (1e-4, 0.05, 0.9999)
    for steps in (1, 400, 10**6)
]


def solved(epsilon, delta, rate, steps):
    noise = noise_for_dp_sgd(epsilon=epsilon, delta=delta, sampling_rate=rate, steps=steps)
    return noise, dp_sgd_epsilon(noise_multiplier=noise, sampling_rate=rate, steps=steps, delta=delta)


def gaussian_delta(epsilon, mean):
    """Delta of a Gaussian mechanism whose two means are `mean` standard deviations apart (Balle and Wang 2018)."""
    above = log_ndtr(mean / 2 - epsilon / mean)
    return math.exp(above) * -math.expm1(epsilon + log_ndtr(-mean / 2 - epsilon / mean) - above)


@pytest.mark.parametrize(("epsilon", "delta", "rate", "steps"), QUICK)
def test_every_epsilon_of_the_range_is_solved_never_overspent_and_hardly_wasted(epsilon, delta, rate, steps):
    noise, spent = solved(epsilon, delta, rate, steps)
    assert spent <= epsilon
    assert spent > 0.98 * epsilon or noise == pytest.approx(LEAST_SAMPLED_NOISE)


@pytest.mark.long
@pytest.mark.parametrize(("epsilon", "delta", "rate", "steps"), WHOLE)
def test_every_epsilon_of_the_whole_range_is_solved_and_never_overspent(epsilon, delta, rate, steps):
    noise, spent = solved(epsilon, delta, rate, steps)
    assert spent <= epsilon
    assert LEAST_SAMPLED_NOISE <= noise * (1 + 1e-9) < math.inf
    if delta > 1e-12 * steps and (rate, delta) != (1e-4, 0.1):
        assert spent > 0.97 * epsilon or noise == pytest.approx(LEAST_SAMPLED_NOISE)


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.1, 1.0])
@pytest.mark.parametrize(("rate", "steps"), [(0.05, 400), (0.3, 50), (0.01, 1000)])
def test_a_far_finer_grid_of_dp_accounting_agrees(epsilon, rate, steps):
    noise, spent = solved(epsilon, DELTA, rate, steps)
    sampled = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    step = epsilon / 4 / math.sqrt(steps)
    finer = dp_accounting.pld.PLDAccountant(value_discretization_interval=step / 60).compose(sampled, steps)
    assert finer.get_epsilon(DELTA) == pytest.approx(spent, rel=5e-3)
    assert finer.get_delta(epsilon) <= DELTA


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 1.0, 8.0])
def test_opacus_finds_the_same_epsilon_by_its_own_convolution_and_more_by_renyi_divergences(epsilon):
    noise, spent = solved(epsilon, DELTA, 0.05, 400)
    history, error = [(noise, 0.05, 400)], epsilon / 50
    convolved, renyi = PRVAccountant(), RDPAccountant()
    convolved.history = renyi.history = history
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the largest alpha")
        upper = convolved.get_epsilon(DELTA, eps_error=error)
    assert upper - error == pytest.approx(spent, rel=5e-3)
    assert spent < renyi.get_epsilon(DELTA, alphas=[1.5, *range(2, 64), 128, 256, 512, 1024])


@settings(max_examples=50)
@given(st.floats(-2, 3), st.floats(-12, -1), st.integers(1, 10**6))
def test_without_sampling_the_noise_is_that_of_the_closed_form(log_epsilon, log_delta, steps):
    epsilon, delta = max(10**log_epsilon, 0.01), max(10**log_delta, 1e-12)
    noise, spent = solved(epsilon, delta, 1.0, steps)
    assert 0.999_999 * epsilon < spent <= epsilon
    assert gaussian_delta(epsilon, math.sqrt(steps) / noise) == pytest.approx(delta, rel=1e-4)
    assert noise == noise_for_gaussian(epsilon=epsilon, delta=delta, sensitivity=1.0, releases=steps)


@pytest.mark.parametrize("steps", [1, 400, 5000, 10**6])
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 8.0])
def test_a_rate_of_nearly_one_costs_what_the_closed_form_says(epsilon, steps):
    noise = noise_for_gaussian(epsilon=epsilon, delta=DELTA, sensitivity=1.0, releases=steps)
    asked = {"noise_multiplier": noise, "sampling_rate": 1 - 1e-9, "steps": steps, "delta": DELTA}
    assert epsilon * (1 - 1e-6) < dp_sgd_epsilon(**asked, accountant="pld") < 1.004 * epsilon
    spent = dp_sgd_epsilon(**asked)
    assert epsilon * (1 - 1e-6) < spent <= epsilon


@settings(max_examples=6)
@given(st.floats(-2, 1.5), st.floats(-1.5, -0.01), st.integers(1, 10**5), st.floats(1.05, 3))
def test_noise_falls_with_epsilon_and_delta_and_grows_with_steps_and_rate(log_epsilon, log_rate, steps, factor):
    epsilon, rate = max(10**log_epsilon, 0.01), 10**log_rate
    asked = {"epsilon": epsilon, "delta": DELTA, "sampling_rate": rate, "steps": steps}
    noise = noise_for_dp_sgd(**asked) * 1.002
    assert noise_for_dp_sgd(**asked | {"epsilon": factor * epsilon}) <= noise
    assert noise_for_dp_sgd(**asked | {"delta": factor * DELTA}) <= noise
    assert noise_for_dp_sgd(**asked | {"steps": math.ceil(steps / factor)}) <= noise
    assert noise_for_dp_sgd(**asked | {"sampling_rate": rate / factor}) <= noise
    assert noise <= 1.01 * noise_for_gaussian(epsilon=epsilon, delta=DELTA, sensitivity=1.0, releases=steps) or (
        noise <= 1.01 * LEAST_SAMPLED_NOISE
    )


EVENTS = st.builds(
    lambda log_noise, count, log_rate: NoiseEvent(10**log_noise, count, 10.0 ** min(log_rate, 0.0)),
    st.floats(-4, 8), st.integers(1, 10**6), st.floats(-6, 0.3),
)  # fmt: skip


@settings(max_examples=15)
@given(st.lists(EVENTS, max_size=3), st.floats(-13, -0.5))
def test_any_life_has_an_epsilon_that_sampling_only_lowers_and_a_release_only_raises(events, log_delta):
    epsilon = composed_epsilon(events, 10**log_delta)
    unsampled = composed_epsilon([NoiseEvent(event.noise_multiplier, event.count) for event in events], 10**log_delta)
    assert 0 <= epsilon <= unsampled
    assert composed_epsilon(events[1:], 10**log_delta) <= 1.2 * epsilon + 1e-3
    assert min(epsilon, 1000) <= 1.02 * composed_epsilon(events, 10**log_delta, accountant="rdp") + 1e-3


def test_equal_releases_cost_the_same_one_by_one_or_counted_together():
    one = NoiseEvent(3.0, 20, 0.05)
    assert composed_epsilon([one] * 20, DELTA) == composed_epsilon([NoiseEvent(3.0, 400, 0.05)], DELTA)


def test_a_life_of_a_hundred_million_steps_is_accounted_in_little_memory():
    tracemalloc.start()
    spent = composed_epsilon([NoiseEvent(500.0, 10**8, 0.05)], DELTA)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent == pytest.approx(
        gaussian_epsilon(noise_std=500.0, sensitivity=0.05, releases=10**8, delta=DELTA), rel=0.05
    )
    assert most < 5e8
