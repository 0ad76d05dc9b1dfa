"""Settings are compared on validation splits, from kept answers."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks.choose import compare, main, measure, validation_splits
from knot_fed import load_student
from knot_fed.federation.server.run import read_server_data, start_student
from knot_fed.sweep.references import open_client
from knot_fed.training.teacher import predict_soft_labels
from tests.federation.server.test_federated_run import run

KEPT = {"keep-answers": True, "distill.epochs": 2}


@pytest.mark.slow
def test_figures_are_means_over_runs_and_the_runs_own_settings_give_its_own_student(small):
    configs = [small(KEPT | {"seed": seed}) for seed in (1, 2)]
    folders = [run(config, f"kept-{config.seed}")[0].path for config in configs]
    repeated, longer = "distill.epochs=2", "distill.epochs=6"
    table = compare(folders, [repeated, longer])
    own, starts = [], []
    for folder, config in zip(folders, configs, strict=True):
        (transfer, public), splits = read_server_data(config), validation_splits(config, clients=3)
        start = start_student(config, public, transfer)
        own.append(measure(load_student(folder), splits, config.label_space()))
        starts.append(measure(start, splits, config.label_space()))
    share = np.mean([student.sd / start.sd for student, start in zip(own, starts, strict=True)])
    assert table.loc[repeated, "SD ↓"] == pytest.approx(share, abs=1e-9)
    assert table.loc[repeated, "accuracy ↑"] == pytest.approx(np.mean([each.accuracy for each in own]))
    assert table.loc[repeated, "W1 ↓"] == pytest.approx(np.mean([each.w1 for each in own]))
    assert list(table.index) == [repeated, longer]
    assert table["W1 ↓"].nunique() == 2


@pytest.mark.slow
def test_only_validation_splits_are_measured(small):
    config = small(KEPT)
    folder, _ = run(config, "kept")
    student = load_student(folder.path)
    splits = [open_client(config, index, 3).examples()[0].val for index in range(3)]
    splits.append(read_server_data(config)[1].val)
    scores = [
        f1_score(
            part.labels, predict_soft_labels(student, part.texts).argmax(1), labels=np.unique(part.labels),
            average="macro", zero_division=0,
        )
        for part in splits
    ]  # fmt: skip
    found = measure(student, validation_splits(config, clients=3), config.label_space())
    assert found.macro_f1 == pytest.approx(np.mean(scores))
    assert found.examples == sum(map(len, splits))


def test_what_cannot_be_compared_is_refused_in_a_sentence(small, monkeypatch, capsys):
    folder, _ = run(small(KEPT), "kept")
    other, _ = run(small(KEPT), "other")
    config = (other.path / "config.toml").read_text()
    (other.path / "config.toml").write_text(config.replace("phones,restaurants,hotels", "phones,restaurants,books"))
    for path, setting, told in (
        (folder.path, "teacher.epochs=1", "its clients were asked under another teacher.epochs"),
        (folder.path.parent / "none", "distill.epochs=1", "none"),
        (other.path, "distill.epochs=1", "its clients were hotels, phones, restaurants, whose validation splits"),
    ):
        monkeypatch.setattr("sys.argv", ["choose", str(path), "--try", setting])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert told in " ".join(capsys.readouterr().err.split())
