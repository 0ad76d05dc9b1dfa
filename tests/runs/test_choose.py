"""Settings are compared on validation splits, from kept answers."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks.choose import compare, main, measure
from knot_fed import load_student
from knot_fed.sweep.references import open_client
from knot_fed.training.teacher import predict_soft_labels
from tests.federation.server.test_federated_run import run

KEPT = {"keep-answers": True, "distill.epochs": 2}


@pytest.mark.slow
def test_the_runs_own_settings_give_its_own_student_and_other_settings_another(small):
    config = small(KEPT)
    folder, _ = run(config, "kept")
    repeated, longer, start = "distill.epochs=2", "distill.epochs=6", "distill.loss=entropy"
    table = compare([folder.path, folder.path], [repeated, longer, start], clients=3)
    own = measure(load_student(folder.path), config, clients=3)
    assert table.loc[repeated, "macro-F1 ↑"] == own.macro_f1
    assert table.loc[repeated, "W1 ↓"] == own.w1
    assert list(table.index) == [repeated, longer, start]
    assert table["W1 ↓"].nunique() == 3


@pytest.mark.slow
def test_only_validation_splits_are_measured(small):
    config = small(KEPT)
    folder, _ = run(config, "kept")
    student = load_student(folder.path)
    splits = [open_client(config, index, 3).examples()[0].val for index in range(3)]
    clients = [
        f1_score(part.labels, predict_soft_labels(student, part.texts).argmax(1), average="macro", zero_division=0)
        for part in splits
    ]
    found = measure(student, config, clients=3)
    public = found.examples - sum(len(part) for part in splits)
    assert 0 < public < found.examples
    assert 0 <= 4 * found.macro_f1 - np.sum(clients) <= 1


def test_a_setting_that_changes_answers_and_a_missing_run_are_refused_in_a_sentence(small, monkeypatch, capsys):
    folder, _ = run(small(KEPT), "kept")
    for given, told in (
        ([str(folder.path), "--try", "teacher.epochs=1"], "its clients were asked under another teacher.epochs"),
        ([str(folder.path.parent / "none"), "--try", "distill.epochs=1"], "none"),
    ):
        monkeypatch.setattr("sys.argv", ["choose", *given, "--clients", "3"])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert told in capsys.readouterr().err
