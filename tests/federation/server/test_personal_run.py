"""The consensus goes back to the clients, which make personal models of it; only metrics return."""

import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from knot_fed import load_student
from knot_fed.errors import ConfigError
from knot_fed.federation.from_answers import distil_from_answers
from knot_fed.federation.server.personal import AWAY, SILENT
from knot_fed.federation.wire import personal_wire
from knot_fed.models import trained_state
from knot_fed.runs.results import means_per_client
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from knot_fed.training.personal.kept import PersonalModels
from tests.fakes import InProcessGrid, context, virtual_clients
from tests.federation.server.test_federated_run import folder_of, run, timeless, write_private
from tests.federation.server.test_roster import ChangingGrid

POOLED = {"personal.consensus": "pooled", "personal.epochs": 2, "student.pretrain": False}
QUICK = {"teacher.epochs": 1, "distill.epochs": 1}
NAMES = {"phones", "restaurants", "hotels"}


def clients_of(folder):
    return folder.read_summary()["personal"]["clients"]


def whole(config, name, nodes, **options):
    grid = ChangingGrid(nodes, **options)
    folder = RunFolder.create(folder_of(config), name)
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    return folder, grid


def state_of(config, client):
    return Path(config.state_dir) / client


@pytest.mark.parametrize("consensus", ["pooled", "student"])
def test_each_client_gets_the_consensus_and_tells_its_metrics_before_and_after(small, consensus):
    config = small(QUICK | POOLED | {"personal.consensus": consensus, "rounds": 2})
    folder, grid = run(config, consensus)
    found = clients_of(folder)
    assert set(found) == NAMES
    for metrics in found.values():
        assert set(metrics) == {"before", "after"}
        assert metrics["before"]["examples"] == metrics["after"]["examples"] > 0
    lower = [metrics["before"]["sd"] - metrics["after"]["sd"] for metrics in found.values()]
    assert means_per_client(folder.read_summary())["gain_sd"] == pytest.approx(np.mean(lower))
    sent = [message for message in grid.wire if personal_wire.KIND.encode() in message]
    assert len(sent) == 2 * len(NAMES)
    assert {client["status"] for client in folder.read_summary()["clients"]} == {"ok"}
    for name in NAMES:
        kept = load_student(state_of(config, name) / "personal")
        assert kept.spec.labels == config.label_space().names


def test_without_a_consensus_no_message_more_is_sent_and_nothing_changes(small):
    plain, grid = run(small(QUICK), "plain")
    same, other = run(small(QUICK | {"personal.weight": 3.0, "personal.loss": "kl"}), "same")
    assert len(grid.wire) == len(other.wire) == 2 * 4 * 3
    assert timeless(plain.read_summary()) == timeless(same.read_summary())
    assert "personal" not in plain.read_summary()
    for name in ("pooled-soft-labels-1.npy", "student/parameters.safetensors"):
        assert (plain.path / name).read_bytes() == (same.path / name).read_bytes()


@pytest.mark.slow
def test_a_personal_model_changes_nothing_of_the_student(small):
    plain, _ = run(small(QUICK | {"student.pretrain": False}), "plain")
    with_models, _ = run(small(QUICK | POOLED), "with-models")
    name = "student/parameters.safetensors"
    assert (plain.path / name).read_bytes() == (with_models.path / name).read_bytes()


@pytest.mark.slow
def test_after_each_round_the_model_goes_on_and_metrics_leave_once(small):
    config = small(QUICK | POOLED | {"rounds": 2, "personal.when": "rounds"})
    folder, grid = run(config, "rounds")
    assert set(clients_of(folder)["phones"]) == {"before", "after"}
    assert sum(personal_wire.KIND.encode() in message for message in grid.wire) == 2 * 2 * 3
    models = PersonalModels(state_of(config, "phones"))
    history = state_of(config, "phones") / "personal-models" / "history.jsonl"
    made = [json.loads(line) for line in history.read_text().splitlines()]
    assert [entry["round"] for entry in made] == [1, 2]
    assert models.before(made[0]["run"], 2) == made[0]["digest"] != made[1]["digest"]
    assert models.current.resolve() == models.folder(made[1]["digest"]).resolve()


@pytest.mark.slow
def test_the_same_run_again_makes_the_same_models(small):
    config = small(QUICK | POOLED | {"rounds": 2, "personal.when": "rounds"})
    first, _ = run(config, "first")
    kept = trained_state(load_student(state_of(config, "phones") / "personal"))
    second, _ = run(config, "second")
    assert clients_of(first) == clients_of(second)
    again = trained_state(load_student(state_of(config, "phones") / "personal"))
    assert all(np.array_equal(kept[name], again[name]) for name in kept)
    assert len(list((state_of(config, "phones") / "personal-models").glob("[0-9a-f]*[0-9a-f]"))) == 2


@pytest.mark.slow
def test_after_a_secure_sum_the_pooled_rows_go_down(small):
    keys = {"privacy.secure-sum": True, "distill.objective": "pooled"}
    folder, _ = run(small(QUICK | POOLED | keys), "secure")
    assert set(clients_of(folder)) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["dp-sgd", "pate", "gaussian"])
def test_under_a_mechanism_a_personal_model_is_made_without_noise_and_stays(small, mechanism):
    keys = {"privacy.mechanism": mechanism, "weights.scheme": "uniform", "privacy.epochs": 1, "privacy.shards": 3}
    config = small(QUICK | POOLED | keys)
    folder, _ = run(config, mechanism)
    assert set(clients_of(folder)["phones"]) == {"before", "after"}
    assert (state_of(config, "phones") / "personal" / "knot_fed.json").is_file()


@pytest.mark.slow
def test_a_client_that_left_or_is_silent_is_named_and_does_not_fail_the_run(small):
    config = small(QUICK | POOLED)

    def leaves(grid, kind, count):
        if kind == "evaluate" and count == 2:
            del grid.contexts[101]
            grid.silent = (102,)

    folder, _ = whole(config, "left", virtual_clients(config, 3), after=leaves)
    summary = folder.read_summary()
    assert summary["status"] == "ok"
    assert summary["personal"]["clients"]["restaurants"] == {"reason": AWAY}
    assert summary["personal"]["clients"]["hotels"] == {"reason": SILENT}
    assert set(summary["personal"]["clients"]["phones"]) == {"before", "after"}
    assert {client["status"] for client in summary["clients"]} == {"ok"}


@pytest.mark.slow
def test_a_restarted_client_takes_its_place_and_gets_the_consensus(small):
    config = small(QUICK | POOLED)

    def restarts(grid, kind, count):
        if kind == "evaluate" and count == 2:
            del grid.contexts[101]
            grid.contexts[201] = virtual_clients(config, 3)[101]

    folder, _ = whole(config, "back", virtual_clients(config, 3), after=restarts)
    assert set(clients_of(folder)["restaurants"]) == {"before", "after"}


@pytest.mark.slow
def test_a_process_that_ends_is_asked_again_and_makes_the_same_model(small):
    config, ended = small(QUICK | POOLED), []

    class Ending(ChangingGrid):
        def reply(self, message):
            reply = super().reply(message)
            if message.metadata.message_type == personal_wire.KIND and not ended:
                ended.append(reply)
                return Message(Error(ErrorCode.CLIENT_APP_CRASHED, "killed"), reply_to=message)
            return reply

    grid = Ending(virtual_clients(config, 3))
    folder = RunFolder.create(folder_of(config), "ended")
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    assert ended
    assert {len(found) for found in clients_of(folder).values()} == {2}


@pytest.mark.slow
def test_a_hostile_reply_is_refused_under_the_clients_name(small):
    def tamper(reply):
        if reply.metadata.src_node_id == 101 and personal_wire.AFTER in reply.content:
            reply.content[personal_wire.AFTER]["sd"] = 99.0
        if reply.metadata.src_node_id == 102 and personal_wire.AFTER in reply.content:
            del reply.content[personal_wire.BEFORE]
        return reply

    folder, _ = run(small(QUICK | POOLED), "hostile", tamper=tamper)
    found = clients_of(folder)
    assert "metric sd outside" in found["restaurants"]["reason"]
    assert "metrics of one model only" in found["hotels"]["reason"]
    assert folder.read_summary()["status"] == "ok"


@pytest.mark.slow
def test_an_owner_of_one_label_gets_a_model_that_knows_the_others(small, tmp_path):
    config = small(POOLED | {"personal.epochs": 10, "teacher.epochs": 5})
    nodes = virtual_clients(config, 3)
    only = tmp_path / "only.jsonl"
    words = ("fine", "good", "great")
    # The node's secret, new in each test, draws the test split; below 20 of its rows no metrics leave the node.
    lines = [{"text": f"a {words[row % 3]} room, number {row}", "label": "positive"} for row in range(300)]
    only.write_text("\n".join(map(json.dumps, lines)))
    node = {"name": "only", "data": str(only), "state-dir": str(tmp_path / "only-state")}
    folder, _ = whole(config, "only", nodes | {200: context(config, node=node, node_id=200)})
    assert set(clients_of(folder)["only"]) == {"before", "after"}
    model = load_student(tmp_path / "only-state" / "personal")
    assert model.spec.name == "ngram-bag"


@pytest.mark.slow
def test_personal_metrics_are_in_the_geometry_of_the_students(small, tmp_path):
    plain, _ = run(small(QUICK | POOLED), "plain")
    half = np.abs(np.subtract.outer(np.arange(5), np.arange(5))) / 2
    np.save(tmp_path / "half.npy", half)
    halved, _ = run(small(QUICK | POOLED | {"labels.geometry": str(tmp_path / "half.npy")}), "halved")
    equal, _ = run(small(QUICK | POOLED | {"labels.geometry": "equal"}), "equal")
    for name in NAMES:
        for when in ("before", "after"):
            found = [clients_of(folder)[name][when] for folder in (plain, halved, equal)]
            assert found[1]["sd"] == pytest.approx(found[0]["sd"] / 2, abs=0.01)  # metrics are rounded
            assert found[1]["w1"] == pytest.approx(found[0]["w1"] / 2, abs=0.01)
            assert found[2]["sd"] <= found[2]["w1"] <= 1
            assert found[0]["accuracy"] == found[1]["accuracy"] == found[2]["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["rounds", "end"])
def test_texts_that_teach_the_student_nothing_teach_no_client(small, caplog, when):
    caplog.set_level("INFO", "knot_fed")
    taught = []

    class Reading(ChangingGrid):
        def reply(self, message):
            if message.metadata.message_type == personal_wire.KIND:
                taught.append(personal_wire.unpack_consensus(message.content, labels=config.label_space()))
            return super().reply(message)

    keys = {"rounds": 2, "personal.when": when, "distill.objective": "pooled", "weights.most-entropy": 0.9}
    config = small(QUICK | POOLED | {"teacher.epochs": 10} | keys)
    grid = Reading(virtual_clients(config, 3))
    folder = RunFolder.create(folder_of(config), when)
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    rounds = [(folder.read_pooled(number), folder.read_text_weights(number) > 0) for number in (1, 2)]
    expected = [tuple(map(np.concatenate, zip(*rounds, strict=True)))] if when == "end" else rounds
    assert 0 < sum(kept.sum() for _, kept in rounds) < sum(len(kept) for _, kept in rounds)
    for request in taught:
        pooled, kept = expected[request.slice.round - 1 if when == "rounds" else 0]
        np.testing.assert_array_equal(request.kept, np.flatnonzero(kept))
        np.testing.assert_allclose(request.soft_labels, pooled[kept], atol=1e-6)
    assert len(taught) == 3 * len(expected)
    assert set(clients_of(folder)["phones"]) == {"before", "after"}
    assert "of 200 transfer texts are left out" in caplog.text


@pytest.mark.slow
def test_the_seconds_of_a_client_count_its_personal_model_but_under_a_guarantee(small, tmp_path):
    def slow(reply):
        if personal_wire.DONE in reply.content:
            told.append(reply.content[personal_wire.DONE]["seconds"])
            reply.content[personal_wire.DONE]["seconds"] += 1000.0
        return reply

    told = []
    folder, _ = run(small(QUICK | POOLED), "slow", tamper=slow)
    assert all(seconds > 0 for seconds in told)
    assert all(client["seconds"] > 1000 for client in folder.read_summary()["clients"])
    told.clear()
    keys = {"privacy.mechanism": "gaussian", "weights.scheme": "uniform", "state-dir": str(tmp_path / "other-state")}
    covered, _ = run(small(QUICK | POOLED | keys), "covered", tamper=slow)
    assert told == [0.0] * 3
    assert covered.read_summary()["privacy"]["guarantee"].endswith(
        "not the metrics of personal models, which are trained without noise"
    )
    assert all(set(metrics) == {"before", "after"} for metrics in clients_of(covered).values())


@pytest.mark.slow
def test_a_run_from_personal_models_is_asked_anew_if_they_would_be_others(small):
    keys = {"personal.when": "rounds", "rounds": 2, "teacher.start": "personal"}
    config = small(QUICK | POOLED | keys)
    source, _ = run(config, "source")
    mapping = config.to_mapping() | {"name": "again", "personal.weight": 50.0}
    with pytest.raises(ConfigError, match=r"asked under another personal\.weight"):
        distil_from_answers(source, type(config).from_mapping(mapping), clients=3)


@pytest.mark.slow
def test_a_student_from_kept_answers_asks_no_client_and_says_so(small):
    config = small(QUICK | POOLED)
    source, _ = run(config, "source")
    mapping = config.to_mapping() | {"name": "again", "distill.loss": "kl"}
    folder = distil_from_answers(source, type(config).from_mapping(mapping), clients=3)
    assert "personal" not in folder.read_summary()
    assert (
        "personal.consensus = 'pooled' has no effect: no client is asked here" in (folder.path / "run.log").read_text()
    )


def test_no_private_text_leaves_with_a_personal_model(run_config, tmp_path, caplog, capfd):
    config = run_config(keys=POOLED | {"min-teachers": 2})
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
    assert sum(personal_wire.KIND.encode() in sent for sent in grid.wire) == 2 * 2
    assert set(clients_of(folder)) == {"left", "right"}
    assert not any(b"zugzwang" in sent for sent in grid.wire)
    files = [file for part in (folder.path, tmp_path / "state") for file in part.rglob("*") if file.is_file()]
    assert not any(b"zugzwang" in file.read_bytes().lower() for file in files)
    output = capfd.readouterr()
    assert "zugzwang" not in (caplog.text + output.out + output.err).lower()
