"""Trackers together: each fails alone, none is told a step twice, and private places are left out."""

import socket
import sys

import pytest

from knot_fed.config import RunConfig
from knot_fed.errors import ConfigError
from knot_fed.preflight import check_run
from knot_fed.runs.log import log_to
from knot_fed.runs.trackers.start import start_trackers, told_configuration, tracker_names
from knot_fed.runs.trackers.tracker import TrackedRun
from knot_fed.runs.trackers.trackers import RECORD, Trackers
from tests.runs.boards import NAMES, read_board

VERSIONS = {"knot-fed": "0"}


class Listed:
    """A tracker in memory; fails from a call on."""

    def __init__(self, fails=""):
        self.fails, self.told = fails, []

    def _call(self, name, *told):
        if name == self.fails:
            raise OSError("no space left at http://ann:secret@host/\nsecond line")
        self.told.append((name, *told))

    def start(self, run, *, resumed):
        self._call("start", resumed)
        return "7"

    def log(self, rows, *, axis):
        self._call("log", rows)

    def log_file(self, name, text):
        self._call("log_file", name)

    def finish(self, *, ok):
        self._call("finish", ok)


def rows(tracker):
    return [call[1] for call in tracker.told if call[0] == "log"]


def start(folder, *, resumed=False, **trackers):
    builders = {name: (lambda tracker=tracker: tracker) for name, tracker in trackers.items()}
    return Trackers(builders, TrackedRun(folder, {}, {}), resumed=resumed)


@pytest.mark.parametrize("fails", ["start", "log", "log_file", "finish"])
def test_a_tracker_that_fails_is_left_out_with_one_line_and_without_credentials(tmp_path, capsys, fails):
    log_to()
    bad, good = Listed(fails), Listed()
    trackers = start(tmp_path, bad=bad, good=good)
    for step in range(3):
        trackers.log({"loss": {step: 0.5}})
    trackers.log_file("a", "text")
    trackers.log_file("b", "text")
    trackers.finish(ok=True)
    assert [call[0] for call in good.told] == ["start", *["log"] * 3, *["log_file"] * 2, "finish"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "tracker bad failed" in line]
    assert len(lines) == 1
    assert "OSError: no space left at http://host/" in lines[0]
    assert "secret" not in lines[0]
    assert "second line" not in lines[0]


def test_a_resumed_run_logs_no_step_twice_and_what_was_missed(tmp_path):
    first, second = Listed(), Listed()
    trackers = start(tmp_path, one=first)
    trackers.log({"loss": {0: 1.0, 1: 0.5}, "seconds": {1: 2.0}})
    trackers.log({"loss": {0: 1.0, 1: 0.5}})
    assert rows(first) == [{0: {"loss": 1.0}, 1: {"loss": 0.5, "seconds": 2.0}}]
    trackers.finish(ok=False)
    resumed = start(tmp_path, resumed=True, one=second)
    assert second.told == [("start", "7")]
    resumed.log({"loss": {0: 1.0, 1: 0.5, 2: 0.4}})
    assert rows(second) == [{2: {"loss": 0.4}}]
    resumed.finish(ok=True)
    assert not (tmp_path / RECORD).exists()


def test_finish_ends_trackers_once(tmp_path):
    tracker = Listed()
    trackers = start(tmp_path, one=tracker)
    trackers.finish(ok=True)
    trackers.finish(ok=False)
    assert [call for call in tracker.told if call[0] == "finish"] == [("finish", True)]


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_is_not_installed_is_refused_before_anything_starts(monkeypatch, tmp_path, small, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf'needs {name}, .*pip install "knot-fed\[{name}\]"'):
        check_run(small({"trackers": name}), clients=3)
    assert not (tmp_path / "runs").exists()


def test_auto_is_tensorboard_if_installed(monkeypatch):
    pytest.importorskip("tensorboard")
    assert tracker_names(RunConfig()) == ["tensorboard"]
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert tracker_names(RunConfig()) == []
    assert tracker_names(RunConfig(trackers="none")) == []


def test_the_configuration_that_trackers_are_told_has_no_folders_and_no_private_files(tmp_path):
    keys = {"data.root": str(tmp_path), "data.clients": "ward-7/notes.csv,b.csv", "model": f"hf:{tmp_path}/models/mini"}
    told = told_configuration(RunConfig.from_mapping({**keys, "runs-dir": f"{tmp_path}/runs", "name": "monday"}))
    assert str(tmp_path) not in told
    assert "ward-7" not in told
    assert "state-dir" not in told
    assert 'name = "monday"' in told


def test_a_server_that_is_away_costs_mlflow_one_line_and_seconds(monkeypatch, tmp_path, capsys):
    pytest.importorskip("mlflow")
    log_to()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = tmp_path / "runs" / "away"
    folder.mkdir(parents=True)
    trackers = start_trackers(RunConfig(trackers="mlflow,tensorboard"), folder, VERSIONS)
    trackers.log({"loss": {0: 0.5}})
    trackers.finish(ok=True)
    assert capsys.readouterr().out.count("tracker mlflow failed, and the run goes on without it") == 1
    assert read_board("tensorboard", folder) == {"loss": {0: 0.5}}


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_a_file_fails_one_tracker_and_no_run(monkeypatch, tmp_path, capsys, name):
    pytest.importorskip(name)
    log_to()
    folder = tmp_path / "runs" / "blocked"
    folder.mkdir(parents=True)
    (folder.parent / "mlruns" if name == "mlflow" else folder / name).write_text("a file")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    trackers = start_trackers(RunConfig(trackers=name), folder, VERSIONS)
    trackers.log({"loss": {0: 0.5}})
    trackers.finish(ok=True)
    said = capsys.readouterr().out
    assert said.count(f"tracker {name} failed") == 1 or name == "wandb", said
