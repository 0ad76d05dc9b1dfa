import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.aggregation import pool_soft_labels
from knot_fed.audit.attacks.registry import POISONS, poisoned
from knot_fed.labels import LabelSpace, check_soft_labels
from knot_fed.transport import make_ground_cost

COST = make_ground_cost("augmented", LabelSpace.preset("sentiment")).matrix.numpy()
seeds = st.integers(0, 2**32 - 1)


def honest(seed, teachers=4, texts=30):
    return np.random.default_rng(seed).dirichlet(np.full(5, 0.5), size=(teachers, texts))


@given(seeds, st.sampled_from(POISONS))
def test_poisoned_rows_pass_every_check_that_the_server_makes(seed, kind):
    rows = honest(seed)[0]
    sent = poisoned(rows, kind, ground_cost=COST, generator=np.random.default_rng(seed))
    assert sent.shape == rows.shape
    check_soft_labels(sent)


@given(seeds)
def test_flipping_twice_gives_the_rows_back_and_once_makes_the_likeliest_label_the_least_likely(seed):
    rows = honest(seed)[0]
    flip = {"ground_cost": COST, "generator": np.random.default_rng(0)}
    once = poisoned(rows, "flipped", **flip)
    np.testing.assert_array_equal(poisoned(once, "flipped", **flip), rows)
    np.testing.assert_array_equal(once.argmin(axis=1), rows.argmax(axis=1))


@given(seeds)
def test_no_row_costs_more_than_the_most_distant_label(seed):
    rows = honest(seed)[0]
    sent = poisoned(rows, "most distant", ground_cost=COST, generator=np.random.default_rng(0))
    paid = COST[rows.argmax(axis=1), sent.argmax(axis=1)]
    np.testing.assert_array_equal(paid, COST[rows.argmax(axis=1)].max(axis=1))


@pytest.mark.parametrize("kind", POISONS)
def test_one_poisoner_of_four_moves_the_mean_more_than_median_or_trimmed_mean(kind):
    generator = np.random.default_rng(2)
    truth = generator.dirichlet(np.full(5, 0.3), size=500)
    teachers = np.stack([0.9 * truth + 0.1 * generator.dirichlet(np.ones(5), size=500) for _ in range(4)])
    teachers[1] = poisoned(teachers[1], kind, ground_cost=COST, generator=generator)
    moved = {
        pooling: np.abs(pool_soft_labels(teachers, np.full((4, 500), 0.25), pooling=pooling) - truth).sum(axis=1).mean()
        for pooling in ("mean", "median", "trimmed-mean")
    }
    assert moved["median"] < 0.5 * moved["mean"]
    assert moved["trimmed-mean"] < 0.5 * moved["mean"]
