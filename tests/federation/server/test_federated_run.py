import json

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord

from knot_fed import KnotStrategy, load_student
from knot_fed.errors import ConfigError, FederationError
from knot_fed.federation.wire import exchange
from knot_fed.labels import check_soft_labels
from knot_fed.models import trained_state
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from knot_fed.training.teacher import predict_soft_labels
from tests.fakes import InProcessGrid, context, virtual_clients

TIMES = ("seconds", "seconds_in_loss", "start_seconds", "wall_seconds", "started", "config_sha256")


def run(config, name, **grid_options):
    grid = InProcessGrid(virtual_clients(config, 3), **grid_options)
    folder = RunFolder.create(folder_of(config), name)
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    return folder, grid


def folder_of(config):
    from pathlib import Path

    return Path(config.runs_dir)


def timeless(summary):
    if isinstance(summary, dict):
        return {key: timeless(value) for key, value in summary.items() if key not in TIMES}
    return [timeless(value) for value in summary] if isinstance(summary, list) else summary


def test_a_run_leaves_summary_student_pooled_soft_labels_and_report(run_config):
    config = run_config(rounds=2)
    folder, _ = run(config, "whole")
    summary = folder.read_summary()
    assert summary["status"] == "ok"
    assert set(summary["domains"]) == {"phones", "restaurants", "hotels", "books"}
    assert {client["status"] for client in summary["clients"]} == {"ok"}
    assert all(client["bytes_up"] > 0 and client["bytes_down"] > 0 for client in summary["clients"])
    pooled = [np.load(folder.path / f"pooled-soft-labels-{number}.npy") for number in (1, 2)]
    assert sum(map(len, pooled)) == 1947
    check_soft_labels(np.concatenate(pooled))
    assert "<table" in (folder.path / "report.html").read_text()
    rows = predict_soft_labels(load_student(folder.path), ["the plot is very good"])
    check_soft_labels(rows)
    assert len(folder.read_rounds()) == 2


def test_the_same_seed_gives_the_same_result_whatever_order_replies_arrive_in(run_config):
    config = run_config()
    first, _ = run(config, "first")
    second, _ = run(config, "second", order=lambda replies: replies[::-1])
    assert timeless(first.read_summary()) == timeless(second.read_summary())
    for name in ("pooled-soft-labels-1.npy", "student/parameters.safetensors"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


@pytest.mark.slow
def test_teachers_are_trained_once_and_answer_a_second_loss(run_config):
    first, _ = run(run_config(), "trained")
    second, _ = run(run_config(keys={"distill.loss": "entropy", "weights.scheme": "confidence"}, rounds=2), "reused")
    flags = [[t["reused"] for r in f.read_rounds() for t in r["teachers"].values()] for f in (first, second)]
    assert not any(flags[0])
    assert all(flags[1])


def spoil(change):
    def tamper(reply):
        if reply.metadata.src_node_id == 101 and exchange.SOFT_LABELS in reply.content:
            arrays = {key: array.numpy().copy() for key, array in reply.content[exchange.SOFT_LABELS].items()}
            change(arrays, reply.content)
            if exchange.SOFT_LABELS in reply.content:
                reply.content[exchange.SOFT_LABELS] = ArrayRecord({key: Array(value) for key, value in arrays.items()})
        return reply

    return tamper


def set_rows(value):
    def change(arrays, content):
        arrays[exchange.SOFT_LABELS][:3] = value

    return change


def wrong_shape(arrays, content):
    arrays[exchange.SOFT_LABELS] = arrays[exchange.SOFT_LABELS][:-1]


def wrong_type(arrays, content):
    arrays[exchange.SOFT_LABELS] = arrays[exchange.SOFT_LABELS].astype(np.float64)


def too_large(arrays, content):
    arrays[exchange.SOFT_LABELS] = np.tile(arrays[exchange.SOFT_LABELS], (50, 1))


def extra_record(arrays, content):
    content["gift"] = ConfigRecord({"parameters": 1})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_rows(np.nan), "not finite"),
        (set_rows([-1, 2, 0, 0, 0]), "expected >= 0"),
        (set_rows(0.5), "expected 1"),
        (wrong_shape, "expected float32"),
        (wrong_type, "expected"),
        (too_large, "expected"),
        (extra_record, "nobody asked for"),
    ],
)
def test_a_bad_reply_is_rejected_and_the_run_goes_on(run_config, change, reason):
    folder, _ = run(run_config(keys={"distill.epochs": 1}), "spoilt", tamper=spoil(change))
    statuses = {client["name"]: client["status"] for client in folder.read_summary()["clients"]}
    assert statuses["restaurants"].startswith("rejected: ")
    assert reason in statuses["restaurants"]
    assert statuses["phones"] == statuses["hotels"] == "ok"


def reverse_labels(arrays, content):
    """Put all mass on the label most distant from the teacher's prediction."""
    said = arrays[exchange.SOFT_LABELS].argmax(axis=1)
    arrays[exchange.SOFT_LABELS] = np.eye(5, dtype=np.float32)[np.where(said >= 2, 0, 4)]


def pooled_of_run(config, name, **grid_options):
    folder, _ = run(config, name, **grid_options)
    return np.load(folder.path / "pooled-soft-labels-1.npy")


@pytest.mark.slow
def test_an_adversarial_client_moves_the_median_far_less_than_the_mean(run_config):
    keys = {"data.limit": 300, "distill.epochs": 1, "weights.scheme": "uniform", "distill.agreement": 1.0}
    keys |= {"distill.objective": "pooled"}
    honest = pooled_of_run(run_config(keys=keys), "honest")
    mean = pooled_of_run(run_config(keys=keys), "mean", tamper=spoil(reverse_labels))
    median = pooled_of_run(
        run_config(keys=keys | {"weights.pooling": "median"}), "median", tamper=spoil(reverse_labels)
    )
    check_soft_labels(median)
    assert np.abs(median - honest).sum(axis=1).mean() < 0.7 * np.abs(mean - honest).sum(axis=1).mean()


def log_size(answers):
    """A user's own scheme."""
    return np.repeat(np.log1p(answers.examples)[:, None], answers.soft_labels.shape[1], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["density", "tests.federation.server.test_federated_run:log_size"])
def test_a_run_weighs_by_scores_of_clients_or_of_a_users_own_and_learns_from_public_examples_beside(run_config, scheme):
    keys = {
        "data.limit": 300,
        "weights.scheme": scheme,
        "weights.power": 2.0,
        "distill.supervised": 0.5,
        "distill.loss": "mse",
    }
    folder, _ = run(run_config(keys=keys), "weighed")
    assert folder.read_summary()["status"] == "ok"
    assert folder.read_summary()["distillation"]["weights"] == scheme


def test_a_scheme_that_cannot_be_imported_ends_the_run_before_any_client_is_asked(run_config):
    config = run_config(keys={"weights.scheme": "nowhere.at.all:scheme"})
    grid = InProcessGrid(virtual_clients(config, 3))
    with pytest.raises(ConfigError, match=r"weights\.scheme = 'nowhere\.at\.all:scheme': cannot be imported"):
        federate(grid, config, RunFolder.create(folder_of(config), "nowhere"))
    assert not grid.wire


def test_robust_pooling_of_separate_teachers_is_refused(run_config):
    with pytest.raises(
        ConfigError, match=r"weights\.pooling = 'median' pools nothing.*use distill\.objective = 'pooled'"
    ):
        run_config(keys={"weights.pooling": "median", "distill.objective": "per-teacher"})


def test_too_few_answers_end_the_run_with_what_was_computed_saved(run_config):
    config = run_config(keys={"min-teachers": 3})
    with pytest.raises(
        FederationError, match=r"2 client\(s\) answered round 1, min-teachers is 3 \(restaurants: rejected"
    ):
        run(config, "short", tamper=spoil(set_rows(np.nan)))
    folder = RunFolder.open(folder_of(config) / "short")
    assert folder.read_summary()["status"] == "failed"
    assert folder.student.is_dir()


@pytest.mark.slow
def test_clients_that_differ_are_listed_before_any_training(run_config, tmp_path):
    config = run_config()
    contexts = virtual_clients(config, 3)
    contexts[100].run_config["labels.names"] = "a,b,c,d,e"
    transfer = tmp_path / "other.csv"
    transfer.write_text("text\nhello\n")
    contexts[101].node_config["transfer"] = str(transfer)
    grid = InProcessGrid(contexts)
    folder = RunFolder.create(folder_of(config), "differ")
    with pytest.raises(FederationError, match=r"1 client\(s\) passed the handshake") as failure:
        federate(grid, config, folder)
    assert "has labels" in str(failure.value)
    assert "holds transfer set" in str(failure.value)
    assert not list(folder_of(config).parent.glob("state/[!s]*/teachers/*"))


def test_a_broken_private_file_ends_the_run_by_its_kind_of_problem(run_config, tmp_path):
    config = run_config()
    private = tmp_path / "mine.csv"
    private.write_text("text,label\nCANARY-7141,9\nfine words,1\n")
    contexts = {
        100: context(config, node={"name": "a", "data": str(private), "state-dir": str(tmp_path / "a")}, node_id=100)
    }
    grid = InProcessGrid(contexts)
    with pytest.raises(FederationError, match="the private file: the label column has values outside") as failure:
        federate(grid, config, RunFolder.create(folder_of(config), "broken"))
    assert "1 of 2" not in str(failure.value)
    assert not any(word in sent for sent in grid.wire for word in (b"CANARY", b"mine.csv", b"1 of 2"))


def write_private(path, word, rows=60):
    lines = [
        {"text": f"{word} it is {'good' if row % 5 > 2 else 'bad'} {row}", "label": row % 5} for row in range(rows)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))


def test_a_canary_in_private_files_reaches_no_message_log_or_server_file(run_config, tmp_path, caplog, capfd):
    config = run_config(keys={"min-teachers": 2})
    contexts = {}
    for index, name in enumerate(("left", "right")):
        private = tmp_path / name / "private.jsonl"
        private.parent.mkdir()
        write_private(private, "zugzwang-9923")
        node = {"name": name, "data": str(private), "state-dir": str(tmp_path / name / "state")}
        contexts[100 + index] = context(config, node=node, node_id=100 + index)
    grid = InProcessGrid(contexts)
    folder = RunFolder.create(folder_of(config), "canary")
    federate(grid, config, folder)
    assert folder.read_summary()["status"] == "ok"
    assert len(grid.wire) == 2 * 2 * 4
    assert not any(b"zugzwang" in sent for sent in grid.wire)
    files = [file for part in (folder.path, tmp_path / "state") for file in part.rglob("*") if file.is_file()]
    assert files
    assert not any(b"zugzwang" in file.read_bytes().lower() for file in files)
    output = capfd.readouterr()
    assert "zugzwang" not in (caplog.text + output.out + output.err).lower()


@pytest.mark.slow
def test_a_silent_client_is_reported(run_config):
    config = run_config()
    grid = InProcessGrid(virtual_clients(config, 3), silent=(102,))
    folder = RunFolder.create(folder_of(config), "silent")
    federate(grid, config, folder)
    statuses = [client["status"] for client in folder.read_summary()["clients"]]
    assert sum("gave no answer in time" in status for status in statuses) == 1


@pytest.mark.slow
def test_torch_randomness_outside_is_left_alone(run_config):
    before = torch.random.get_rng_state()
    run(run_config(keys={"distill.epochs": 1, "teacher.epochs": 1}), "quiet")
    assert torch.equal(before, torch.random.get_rng_state())


def test_options_that_the_configuration_has_are_refused_in_one_sentence_before_any_message(small):
    config = small()
    strategy = KnotStrategy.from_config(config, RunFolder.create(folder_of(config), "loop"))
    grid = InProcessGrid(virtual_clients(config, 3))
    with pytest.raises(FederationError, match=r"start takes only the grid: .* call start\(grid\)"):
        strategy.start(grid, ArrayRecord(), num_rounds=1)
    assert not grid.wire


def test_the_strategy_starts_by_flowers_own_call_and_returns_the_students_arrays(small):
    config = small()
    strategy = KnotStrategy.from_config(config, RunFolder.create(folder_of(config), "call"))
    result = strategy.start(grid=InProcessGrid(virtual_clients(config, 3)))
    arrays = {name: array.numpy() for name, array in result.arrays.items()}
    assert arrays.keys() == trained_state(strategy.student).keys()
    assert all(np.array_equal(arrays[name], value) for name, value in trained_state(strategy.student).items())
