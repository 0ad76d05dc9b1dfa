"""What TensorBoard, MLflow and Weights & Biases hold of a run, during it and after it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from flwr.app import MessageType

from knot_fed import fedavg_app, server_app
from knot_fed.errors import FederationError
from knot_fed.federation.from_answers import distil_from_answers
from knot_fed.federation.server.run import run_in_folder
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import COLUMNS
from knot_fed.runs.trackers.trackers import RECORD
from tests.deployment.members import MARK, left_over, until
from tests.fakes import InProcessGrid, context, virtual_clients
from tests.federation.server.test_resume import kill_at
from tests.runs.boards import NAMES, mlflow_run, read_board, wandb_records

ALL = ",".join(NAMES)
TWO_ROUNDS = {"rounds": 2, "teacher.epochs": 1, "distill.epochs": 2}
STUDENT = "student/parameters.safetensors"


@pytest.fixture(autouse=True)
def all_installed():
    for name in NAMES:
        pytest.importorskip(name)


def run(config, *, federate=server_app.federate, grid=None):
    grid = grid or InProcessGrid(virtual_clients(config, 3))
    return run_in_folder(grid, context(config, node={}, node_id=1), federate)


class Watched(InProcessGrid):
    """Reads the boards when the clients are asked for the answers of round 2."""

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        asked = [message for message in messages if message.metadata.message_type == MessageType.TRAIN]
        self.batches = getattr(self, "batches", 0) + bool(asked)
        if asked and self.batches == 2:
            self.seen = {name: read_board(name, self.folder) for name in ("tensorboard", "mlflow")}
        return super().send_and_receive(messages, timeout=timeout)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run with all trackers, what two boards showed before round 2, and the place of its files."""
    from tests.conftest import small_config
    from tests.deployment.review_files import write_reviews, write_server_files

    place = tmp_path_factory.mktemp("tracked")
    data = place / "ward-7"
    write_server_files(data)
    for name in ("phones", "restaurants", "hotels"):
        write_reviews(data / f"{name}.csv", name)
        file = data / f"{name}.csv"
        file.write_text(file.read_text().replace("the ", "the zugzwang-9923 "))
    keys = {"data.root": str(data), "data.clients": "phones,restaurants,hotels", "data.public": "books"}
    config = small_config(place, keys | TWO_ROUNDS | {"data.transfer": "forum", "trackers": ALL, "name": "monday"})
    grid = Watched(virtual_clients(config, 3))
    grid.folder = Path(config.runs_dir) / "monday"
    return run(config, grid=grid), grid.seen, data


def test_boards_show_round_1_while_round_2_is_asked(tracked):
    folder, seen, _ = tracked
    first = folder.read_rounds()[0]
    for scalars in seen.values():
        held = first["validation_losses"]
        assert scalars["distillation/held_out_loss"] == pytest.approx(dict(enumerate(held)))
        assert set(scalars["distillation/train_loss"]) == set(range(1, len(held)))
        assert set(scalars["eval/sd/phones"]) == {0, 1}
        assert set(scalars["eval/sd/books public"]) == {0}
        assert scalars["clients/answered"] == {1: 3}


@pytest.mark.parametrize("name", NAMES)
def test_each_board_holds_losses_and_metrics_of_the_summary(tracked, name):
    folder = tracked[0]
    scalars, summary, rounds = read_board(name, folder.path), folder.read_summary(), folder.read_rounds()
    held = [loss for record in rounds for loss in record["validation_losses"]]
    assert scalars["distillation/held_out_loss"] == pytest.approx(dict(enumerate(held)), rel=1e-6)
    train = [loss for record in rounds for loss in record["train_losses"]]
    assert list(scalars["distillation/train_loss"].values()) == pytest.approx(train, rel=1e-6)
    domains = {"phones": summary["domains"]["phones"], "books public": summary["domains"]["books"]}
    for domain, metrics in {**domains, "mean": summary["student"]}.items():
        for key, _ in COLUMNS:
            found = scalars[f"eval/{key}/{domain}"]
            expected = {0: metrics["before"][key], 2: metrics["after"][key]}
            assert {step: found[step] for step in expected} == pytest.approx(expected, rel=1e-6)
    for way in ("up", "down"):
        total = sum(client[f"bytes_{way}"] for client in summary["clients"])
        assert scalars[f"traffic/bytes_{way}"][2] == pytest.approx(total, rel=1e-6)
    assert set(scalars["time/seconds"]) == {0, 1, 2}
    assert scalars["time/total"][2] == pytest.approx(summary["wall_seconds"], rel=1e-6)
    assert "privacy/epsilon" not in scalars


def test_mlflow_has_settings_tags_files_and_a_status(tracked):
    folder = tracked[0]
    client, found = mlflow_run(folder.path)
    assert found.info.status == "FINISHED"
    assert found.data.params["distill.epochs"] == "2"
    assert found.data.tags["task"] == "sentiment"
    assert found.data.tags["loss"] == "ot"
    assert found.data.tags["version.torch"] == folder.read_summary()["versions"]["torch"]
    files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert files == {"report.html", "summary.json", "config.toml"}


def test_wandb_is_offline_with_settings_and_files_and_ends_its_process(tracked):
    folder = tracked[0]
    kinds = [record.WhichOneof("record_type") for record in wandb_records(folder.path)]
    assert "exit" in kinds
    (place,) = (folder.path / "wandb").glob("offline-run-*")
    assert {"report.html", "summary.json", "config.toml"} <= {file.name for file in (place / "files").iterdir()}
    assert not [child for child in psutil.Process().children(recursive=True) if "wandb" in child.name()]


def test_nothing_private_is_in_a_board(tracked):
    folder, _, data = tracked
    soft_labels = np.load(folder.path / "pooled-soft-labels-1.npy").astype(np.float32)
    secrets = [b"zugzwang", b"ward-7", str(data).encode(), soft_labels[0].tobytes(), soft_labels[:, 0].tobytes()]
    places = [folder.path / "tensorboard", folder.path / "wandb", folder.path.parent / "mlruns"]
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert len(files) > 100
    assert [(file, secret) for file in files for secret in secrets if secret in file.read_bytes()] == []
    assert "zugzwang" in (data / "phones.csv").read_text()


def test_trackers_change_no_result(tracked, small):
    folder, _, data = tracked
    keys = {**TWO_ROUNDS, "data.root": str(data), "trackers": "none", "name": "plain"}
    plain = run(small(keys))
    assert (plain.path / STUDENT).read_bytes() == (folder.path / STUDENT).read_bytes()
    assert not (plain.path / "tensorboard").exists()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [2, 5])
def test_a_resumed_run_goes_on_in_the_same_boards_without_a_step_twice(small, monkeypatch, checkpoint):
    keys = {**TWO_ROUNDS, "trackers": ALL, "distill.epochs": 3}
    with kill_at(checkpoint, monkeypatch=monkeypatch):
        run(small(keys | {"name": "stopped"}))
    stopped = RunFolder.open(Path(small().runs_dir) / "stopped")
    assert mlflow_run(stopped.path)[1].info.status == "FAILED"
    assert (stopped.path / RECORD).is_file()
    folder = run(small(keys | {"resume": "stopped"}))
    assert mlflow_run(folder.path)[1].info.status == "FINISHED"
    held = [loss for record in folder.read_rounds() for loss in record["validation_losses"]]
    for name in NAMES:
        scalars = read_board(name, folder.path)
        assert scalars["distillation/held_out_loss"] == pytest.approx(dict(enumerate(held)), rel=1e-6)
        assert set(scalars["eval/sd/phones"]) == {0, 1, 2}
        assert scalars["clients/answered"] == {1: 3, 2: 3}
    records = list(wandb_records(folder.path))
    assert len({record.run.run_id for record in records if record.HasField("run")}) == 1
    numbers = [record.history.step.num for record in records if record.HasField("history")]
    assert numbers == sorted(set(numbers))


@pytest.mark.slow
def test_fedavg_is_tracked_by_round(small):
    config = small({"fedavg.rounds": 2, "teacher.epochs": 1, "trackers": ALL, "name": "averaged"})
    grid = InProcessGrid(virtual_clients(config, 3), app=fedavg_app.client_app)
    folder = run(config, federate=fedavg_app.federate, grid=grid)
    summary = folder.read_summary()
    for name in NAMES:
        scalars = read_board(name, folder.path)
        assert scalars["clients/answered"] == {1: 3, 2: 3}
        assert list(scalars["traffic/bytes_up"]) == [0, 1, 2]
        sent = sum(client["bytes_up"] for client in summary["clients"])
        assert scalars["traffic/bytes_up"][2] == pytest.approx(sent, rel=1e-6)
        assert scalars["eval/sd/mean"] == pytest.approx(
            {step: summary["student"][when]["sd"] for step, when in ((0, "before"), (2, "after"))}, rel=1e-6
        )


@pytest.mark.slow
def test_a_guarantee_is_a_scalar(small):
    keys = {"privacy.mechanism": "gaussian", "privacy.epsilon": 4.0, "weights.scheme": "uniform"}
    folder = run(small(keys | {"trackers": "mlflow", "name": "noisy"}))
    epsilon = folder.read_summary()["privacy"]["epsilon"]
    assert read_board("mlflow", folder.path)["privacy/epsilon"] == pytest.approx({1: epsilon})


@pytest.mark.slow
def test_a_student_from_answers_is_tracked_too(small):
    source = run(small({"trackers": "none", "name": "source"}))
    config = small({"trackers": "mlflow", "name": "second", "distill.loss": "kl"})
    second = distil_from_answers(source, config, clients=3, report=False)
    assert set(read_board("mlflow", second.path)["eval/sd/mean"]) == {0, 1}
    assert mlflow_run(second.path)[1].data.tags["loss"] == "kl"


def test_a_failed_run_has_that_status_and_no_files(small):
    config = small({"trackers": "mlflow", "name": "failed", "timeout": 1.0})
    with pytest.raises(FederationError):
        run(config, grid=InProcessGrid(virtual_clients(config, 3), silent=(100, 101, 102)))
    client, found = mlflow_run(Path(config.runs_dir) / "failed")
    assert found.info.status == "FAILED"
    assert client.list_artifacts(found.info.run_id) == []


class Losing(InProcessGrid):
    """Loses MLflow's store when the clients are asked for the answers of round 2."""

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        if messages and messages[0].metadata.message_type == MessageType.TRAIN:
            self.batches = getattr(self, "batches", 0) + 1
            if self.batches == 2:
                self.store.rename(self.store.with_name("elsewhere"))
                self.store.write_text("a file")
        return super().send_and_receive(messages, timeout=timeout)


@pytest.mark.slow
def test_a_board_that_is_lost_during_the_run_costs_one_line(small):
    config = small(TWO_ROUNDS | {"trackers": "mlflow,tensorboard", "name": "lost"})
    grid = Losing(virtual_clients(config, 3))
    grid.store = Path(config.runs_dir) / "mlruns"
    folder = run(config, grid=grid)
    assert folder.read_summary()["status"] == "ok"
    assert (folder.path / "run.log").read_text().count("tracker mlflow failed, and the run goes on without it") == 1
    assert set(read_board("tensorboard", folder.path)["eval/sd/mean"]) == {0, 2}
    assert json.loads((folder.path / "summary.json").read_text())["clients_answered"] == 3


PROGRAM = """
import sys
from knot_fed import Federation, RunConfig
from knot_fed.system.stopping import stoppable
with stoppable("program"):
    Federation(RunConfig.from_mapping({"trackers": "wandb", "distill.epochs": 500, "distill.patience": 500,
        "name": "stopped", "runs-dir": sys.argv[1], "state-dir": sys.argv[1] + "/state"})).run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_stopped_program_leaves_no_process_of_wandb(tmp_path, number):
    environment = {**psutil.Process().environ(), MARK: str(tmp_path)}
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "runs")], env=environment, stdout=said, stderr=said
        )
    family = psutil.Process(process.pid).children
    until(lambda: "wandb-core" in [child.name() for child in family()], "W&B", timeout=120, log=tmp_path / "said")
    process.send_signal(number)
    process.wait(timeout=60)
    until(lambda: not left_over(tmp_path), "end of all processes", timeout=20)
