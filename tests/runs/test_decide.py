"""The random-effects mean over data sets."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import results
from benchmarks.decide import differences_table, random_effects, shares_table
from benchmarks.results import SWEEPS
from knot_fed.errors import RunFolderError
from knot_fed.runs.statistics import paired_interval
from tests.conftest import ROOT

effects = st.lists(st.floats(-1, 1), min_size=2, max_size=8).map(np.array)


@given(effects, st.floats(1e-4, 10))
def test_equally_precise_data_sets_give_the_t_interval_of_their_means(means, variance):
    mean, low, high = random_effects(means, np.full(len(means), variance))
    assert mean == pytest.approx(means.mean(), abs=1e-9)
    assert (low, high) == pytest.approx(paired_interval(means), abs=1e-6)


@given(effects, st.floats(-1, 1))
def test_a_shift_of_all_effects_shifts_the_interval(means, shift):
    variances = np.linspace(0.1, 1, len(means))
    first, second = random_effects(means, variances), random_effects(means + shift, variances)
    np.testing.assert_allclose(np.subtract(second, first), shift, atol=1e-6)


def test_a_precise_data_set_counts_for_more_where_all_agree_but_for_noise():
    mean, _, _ = random_effects(np.array([0.0, 1.0]), np.array([1.0, 100.0]))
    assert mean == pytest.approx(1 / 101)  # inverse variances, since nothing varies between the sets


@pytest.mark.parametrize(
    "variances",
    [[0.0, 1e-6, 1e-6], [7.7e-34, 1e-6, 1e-6], [1e-24, 1e-5, 1e-5], [np.nan, 1e-6, 1e-6], [0.0, 0.0, 0.0]],
)
def test_a_data_set_without_variance_between_seeds_does_not_take_all_the_weight(variances):
    means = np.array([0.0, 0.01, 0.02])
    mean, low, high = random_effects(means, np.array(variances))
    assert mean == pytest.approx(0.01)
    assert (low, high) == pytest.approx(paired_interval(means))


def test_one_data_set_alone_decides_nothing():
    assert random_effects(np.array([0.3]), np.array([0.1])) == (0.3, -np.inf, np.inf)


def sweep_of(folder, frame):
    folder.mkdir()
    frame.to_csv(folder / "results.csv", index=False)
    for name in ("comparison.csv", "sweep.toml"):
        shutil.copy(SWEEPS / "recipe-sentiment" / name, folder)
    return folder


@pytest.fixture
def frame():
    return pd.read_csv(SWEEPS / "recipe-sentiment/results.csv")


def test_a_third_loss_takes_no_part(frame, tmp_path):
    other = frame[frame["loss"] == "ot"].assign(loss="kl")
    other["sd"] += 0.1
    tables = [differences_table([sweep_of(tmp_path / name, rows)]) for name, rows in
              {"two": frame, "three": pd.concat([frame, other])}.items()]  # fmt: skip
    pd.testing.assert_frame_equal(*(table.drop(columns="data") for table in tables))


def test_a_sweep_without_pairs_is_refused_in_one_sentence(frame, tmp_path):
    alone = sweep_of(tmp_path / "alone", frame[frame["loss"] != "entropy"])
    with pytest.raises(RunFolderError, match="alone: no seed has both losses; sweep with --grid"):
        differences_table([alone])
    for folder in (alone, tmp_path / "absent"):
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.decide", folder], capture_output=True, text=True, cwd=ROOT
        )
        assert told.returncode == 1
        assert len(told.stderr.strip().splitlines()) == 1


def test_a_share_is_of_the_gap_to_the_centralised_model_of_its_own_setting(frame, tmp_path):
    far = frame.copy()
    far.loc[far["line"] == "centralised", "sd"] -= 0.03
    both = pd.concat([frame.assign(**{"teacher.calibrate": True}), far.assign(**{"teacher.calibrate": False})])
    students = shares_table([sweep_of(tmp_path / "both", both)])
    students = students[students["line"] == "student after"].set_index(["loss", "teacher.calibrate"])["closed"]
    one = shares_table([sweep_of(tmp_path / "one", frame)])
    one = one[one["line"] == "student after"].set_index("loss")["closed"]
    for loss in ("ot", "entropy"):
        assert students[loss, "True"] == pytest.approx(one[loss])
        assert students[loss, "False"] < one[loss] - 5


def test_shares_of_methods_stay_apart():
    shares = shares_table([SWEEPS / "methods-sentiment"])
    students = shares[shares["line"] == "student after"]
    assert sorted(students["method"]) == sorted(set(students["method"]))
    assert students["seeds"].tolist() == [5] * len(students)


def test_a_sweep_whose_settings_tell_of_a_folder_of_the_machine_is_not_kept(tmp_path, monkeypatch):
    sweep = tmp_path / "sweep"
    shutil.copytree(SWEEPS / "recipe-sentiment", sweep)
    monkeypatch.setattr(results, "SWEEPS", tmp_path / "kept")
    told = (sweep / "sweep.toml").read_text()
    for key, name in (("transport.encoder", "hf:/home/me/model"), ("teacher.models", "ngram-bag,hf:/home/me/model")):
        (sweep / "sweep.toml").write_text(told.replace(f'"{key}" = ""', f'"{key}" = "{name}"'))
        with pytest.raises(RunFolderError, match=f"{key} = '{name}' is a path of this machine; name a hub id"):
            results.keep("own", sweep)
        assert not (tmp_path / "kept").exists()
    (sweep / "sweep.toml").write_text(told)
    results.keep("own", sweep)
    assert sorted(file.name for file in (tmp_path / "kept" / "own").iterdir()) == [
        "comparison.csv", "results.csv", "sweep.toml",
    ]  # fmt: skip
