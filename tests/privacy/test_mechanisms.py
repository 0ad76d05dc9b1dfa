import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from knot_fed.config import PrivacyConfig
from knot_fed.errors import PrivacyError
from knot_fed.labels import check_soft_labels
from knot_fed.mechanisms import mechanism_of
from knot_fed.privacy.accounting import composed_epsilon
from knot_fed.privacy.noise import NoiseSource
from knot_fed.privacy.row_noise import SQRT2, noisy_soft_labels, noisy_votes, project_to_simplex

ROOT = Path(__file__).parent.parent.parent
DEFAULTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]["privacy"]
ROWS = arrays(np.float64, (3, 4), elements=st.floats(-5, 5))
KEY = bytes(range(32))


def settings_of(**keys):
    return PrivacyConfig.model_validate(DEFAULTS | {key.replace("_", "-"): value for key, value in keys.items()})


def noise_event(privacy, **asked):
    return mechanism_of(privacy).noise_event(privacy, **asked)


@settings(max_examples=50)
@given(ROWS)
def test_the_projection_gives_distributions_that_no_step_along_the_simplex_brings_nearer(rows):
    projected = project_to_simplex(rows)
    check_soft_labels(projected)
    for vertex in np.eye(4):
        slope = np.sum((projected - rows) * (vertex - projected), axis=1)
        assert (slope > -1e-4).all()


def test_the_projection_is_that_of_a_general_solver():
    row = np.array([0.9, 0.4, -0.3, 0.2])
    found = minimize(
        lambda x: np.sum((x - row) ** 2), np.full(4, 0.25), bounds=[(0, None)] * 4,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
    )  # fmt: skip
    assert project_to_simplex(row[None])[0] == pytest.approx(found.x, abs=1e-3)


def test_noise_on_soft_labels_has_the_deviation_that_accounting_reads():
    flat = np.full((20000, 2), 0.5)
    noisy = noisy_soft_labels(flat, noise_multiplier=0.02, source=NoiseSource(KEY))
    along = (noisy[:, 0] - noisy[:, 1]) / SQRT2
    assert along.std() == pytest.approx(0.02 * SQRT2, rel=0.03)


@given(st.integers(0, 9), st.integers(0, 4), st.integers(2, 10))
def test_one_record_moves_votes_and_mean_by_no_more_than_the_sensitivity(shard, label, shards):
    generator = np.random.default_rng(shard)
    answers = generator.dirichlet(np.full(5, 0.3), size=(shards, 3))
    other = answers.copy()
    other[shard % shards] = np.eye(5)[label]
    for statistic, bound in (
        (lambda a: np.eye(5)[a.argmax(axis=2)].sum(axis=0), SQRT2),
        (lambda a: a.mean(axis=0), SQRT2 / shards),
    ):
        assert np.linalg.norm(statistic(answers) - statistic(other), axis=1).max() <= bound + 1e-9


def test_clear_votes_win_through_little_noise():
    answers = np.zeros((50, 4, 3))
    answers[..., 1] = 1.0
    source = NoiseSource()
    labels = noisy_votes(answers, noise_multiplier=1.0, labels_only=True, source=source)
    assert labels.tolist() == [[0, 1, 0]] * 4
    mean = noisy_votes(answers, noise_multiplier=0.1, labels_only=False, source=source)
    check_soft_labels(mean)
    assert (mean.argmax(axis=1) == 1).all()


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan])
def test_without_noise_nothing_comes_out(noise):
    source = NoiseSource()
    with pytest.raises(PrivacyError, match="no noise guarantees nothing"):
        noisy_soft_labels(np.full((2, 2), 0.5), noise_multiplier=noise, source=source)
    with pytest.raises(PrivacyError, match="no noise guarantees nothing"):
        noisy_votes(np.full((2, 2, 2), 0.5), noise_multiplier=noise, labels_only=True, source=source)


@pytest.mark.parametrize("mechanism", ["pate", "gaussian"])
@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_the_slices_of_one_transfer_set_together_spend_the_epsilon_of_the_run(mechanism, epsilon):
    privacy = settings_of(mechanism=mechanism, epsilon=epsilon)
    slices = [noise_event(privacy, texts=830, asked=asked) for asked in (400, 430)]
    assert composed_epsilon(slices, privacy.delta) == pytest.approx(epsilon, rel=1e-6)


def test_the_least_noise_of_the_owner_wins_over_the_epsilon_asked():
    assert noise_event(settings_of(mechanism="gaussian"), texts=1, asked=1, least_noise=50.0).noise_multiplier == 50
    assert noise_event(settings_of(mechanism="dp-sgd"), texts=1, asked=1, least_noise=5.0).noise_multiplier == 5
    assert noise_event(settings_of(mechanism="none"), texts=1, asked=1, least_noise=5.0) is None
