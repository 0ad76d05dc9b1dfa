import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from knot_fed.runs.results import MEASURES
from knot_fed.runs.statistics import paired_interval
from knot_fed.sweep.statistics import compare_with_baseline

numbers = st.lists(st.floats(-1, 1).map(lambda value: round(value, 3)), min_size=2, max_size=9)


def results(gains, noise=0.0):
    """Return students of two losses whose seeds differ much, and whose differences are the gains."""
    rows = []
    for seed, gain in enumerate(gains):
        for loss, shift in (("ot", gain), ("entropy", 0.0)):
            rows.append(
                {"seed": seed, "loss": loss, "objective": "pooled", "weights": "size", "line": "student after"}
                | {"cost": "semantic" if loss == "ot" else np.nan, "domain": "mean"}
                | dict.fromkeys(("sd", "sd_calibrated", "w1", "accuracy", "macro_f1", "ece"), 10.0 * seed + shift)
            )
    return pd.DataFrame(rows)


@given(numbers)
def test_the_interval_is_that_of_a_paired_t_test(differences):
    found = np.array(differences)
    if np.ptp(found) == 0:
        return
    expected = stats.ttest_rel(found + 3, np.full(len(found), 3.0)).confidence_interval(0.95)
    np.testing.assert_allclose(paired_interval(found), (expected.low, expected.high), rtol=1e-6, atol=1e-9)


@given(numbers)
def test_differences_between_seeds_cancel(gains):
    table = compare_with_baseline(results(gains))
    assert len(table) == len(MEASURES)
    np.testing.assert_allclose(table["difference"], np.mean(gains), atol=1e-9)


@pytest.mark.parametrize(
    ("gains", "sd", "accuracy"),
    [
        ([-0.2, -0.21, -0.19], "better", "worse"),
        ([0.2, 0.21, 0.19], "worse", "better"),
        ([-0.2, 0.2], "undecided", "undecided"),
    ],
)
def test_less_distance_and_more_accuracy_are_better(gains, sd, accuracy):
    verdicts = compare_with_baseline(results(gains)).set_index("metric")["verdict"]
    assert (verdicts["sd"], verdicts["accuracy"]) == (sd, accuracy)


def test_one_seed_decides_nothing():
    assert set(compare_with_baseline(results([-0.5]))["verdict"]) == {"undecided"}


def test_a_baseline_of_another_weighting_is_not_compared_with():
    table = results([-0.1, -0.2])
    table.loc[table["loss"] == "entropy", "weights"] = "uniform"
    assert compare_with_baseline(table).empty
