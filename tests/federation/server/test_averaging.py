import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from knot_fed import load_student
from knot_fed.errors import FederationError
from knot_fed.fedavg_app import client_app, federate
from knot_fed.federation.client.settings import Client
from knot_fed.federation.server.run import read_server_data, start_student
from knot_fed.federation.wire import envelope, student_wire
from knot_fed.models import trained_state
from knot_fed.privacy.ledger.spending import spent_in_life
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import summary_table
from tests.fakes import InProcessGrid, context, virtual_clients

pytestmark = pytest.mark.slow

ONE_ROUND = {"fedavg.rounds": 1, "teacher.epochs": 1}


def run(config, name, contexts=None, **grid_options):
    grid = InProcessGrid(contexts or virtual_clients(config, 3), app=client_app, **grid_options)
    folder = RunFolder.create(Path(config.runs_dir), name)
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    return folder, grid


def messages(grid):
    return [message_from_proto(ProtoMessage.FromString(sent)) for sent in grid.wire]


def replies(grid, kind):
    return [m for m in messages(grid) if m.metadata.reply_to_message_id and m.metadata.message_type == kind]


def node(folder, policy):
    """A real node's private file, state and policy."""
    folder.mkdir()
    rows = [{"text": f"it is {'good' if row % 5 > 2 else 'bad'} zugzwang {row}", "label": row % 5} for row in range(60)]
    (folder / "private.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "policy.toml").write_text(policy)
    paths = {"data": folder / "private.jsonl", "state-dir": folder / "state", "policy": folder / "policy.toml"}
    return {"name": folder.name, **{key: str(path) for key, path in paths.items()}}


def test_one_round_gives_the_mean_of_returned_parameters_weighted_by_examples(run_config):
    config = run_config(keys=ONE_ROUND)
    folder, grid = run(config, "mean", virtual_clients(config, 4))
    returned = [reply.content for reply in replies(grid, "train")]
    counts = np.array([content[student_wire.TRAINING][student_wire.EXAMPLES] for content in returned])
    assert len(returned) == 4
    assert len(set(counts)) > 1
    after = trained_state(load_student(folder.path))
    for name, value in after.items():
        stacked = np.stack([content[student_wire.PARAMETERS][name].numpy() for content in returned]).astype(np.float64)
        np.testing.assert_allclose(value, np.tensordot(counts / counts.sum(), stacked, axes=1), atol=1e-6)
        assert np.abs(stacked - stacked[0]).max() > 1e-3


def test_clients_start_a_run_from_the_start_of_our_own_strategy(run_config):
    config = run_config(keys=ONE_ROUND)
    _, grid = run(config, "start")
    transfer, public = read_server_data(config)
    start = trained_state(start_student(config, public, transfer))
    sent = [m for m in messages(grid) if m.metadata.message_type == "train" and not m.metadata.reply_to_message_id]
    assert len(sent) == 3
    for message in sent:
        assert all(
            np.array_equal(message.content[student_wire.STUDENT][name].numpy(), value) for name, value in start.items()
        )


def test_a_run_leaves_what_our_own_leaves_and_its_table_prints(run_config):
    folder, grid = run(run_config(keys={"fedavg.rounds": 2, "fedavg.epochs": 1}), "whole")
    summary = folder.read_summary()
    assert summary["status"] == "ok"
    assert set(summary["domains"]) == {"phones", "restaurants", "hotels", "books"}
    assert summary["student"]["after"]["macro_f1"] > summary["student"]["before"]["macro_f1"]
    assert summary["fedavg"]["rounds"] == 2
    assert "parameters leave" in summary["privacy"]["guarantee"]
    summary_table(summary)
    parameters = sum(value.nbytes for value in trained_state(load_student(folder.path)).values())
    for client in summary["clients"]:
        in_training = summary["fedavg"]["bytes_up_in_training"][client["name"]]
        assert client["status"] == "ok"
        assert in_training == pytest.approx(2 * parameters, rel=0.01)
        assert in_training < client["bytes_up"] < in_training + 1000
        assert client["bytes_down"] == pytest.approx(4 * parameters, rel=0.01)
    counted = sum(client["bytes_up"] + client["bytes_down"] for client in summary["clients"])
    assert counted == pytest.approx(sum(map(len, grid.wire)), rel=0.01)


def test_the_same_seed_gives_the_same_student_whatever_order_replies_arrive_in(run_config):
    config = run_config(keys=ONE_ROUND)
    students = [
        (folder.student / "parameters.safetensors").read_bytes()
        for folder, _ in (run(config, "first"), run(config, "second", order=lambda replies: replies[::-1]))
    ]
    assert students[0] == students[1]


def test_nothing_but_declared_records_leaves(run_config):
    _, grid = run(run_config(keys=ONE_ROUND), "declared")
    declared = {
        "query": {envelope.ABOUT},
        "train": {student_wire.PARAMETERS, student_wire.TRAINING},
        "evaluate": {student_wire.METRICS},
    }
    for kind, records in declared.items():
        assert replies(grid, kind)
        assert all(set(reply.content) == records for reply in replies(grid, kind))


@pytest.mark.parametrize(
    ("policy", "key"), [("", "share-parameters"), ("share-parameters = true\nshare-example-counts = false", "counts")]
)
def test_a_node_whose_owner_keeps_parameters_refuses_before_any_training(run_config, tmp_path, policy, key):
    config = run_config(keys=ONE_ROUND)
    contexts = {100: context(config, node=node(tmp_path / "left", policy), node_id=100)}
    with pytest.raises(FederationError, match=f"keeps this client out of federated averaging; set .*{key}"):
        run(config, "kept", contexts)


def test_a_node_asks_its_policy_again_before_parameters_leave(run_config, tmp_path):
    config = run_config(keys=ONE_ROUND)
    allowed = {
        100 + index: context(config, node=node(tmp_path / name, "share-parameters = true"), node_id=100 + index)
        for index, name in enumerate(("left", "right"))
    }

    def change_of_mind(reply):  # of the owner, after the handshake
        if reply.metadata.message_type == "query":
            (tmp_path / "left" / "policy.toml").write_text("")
        return reply

    grid = InProcessGrid(allowed, app=client_app, tamper=change_of_mind)
    with pytest.raises(FederationError, match=r"left: rejected: .*set share-parameters to join"):
        federate(grid, config, RunFolder.create(Path(config.runs_dir), "late"))
    senders = {
        reply.metadata.src_node_id for reply in replies(grid, "train") if student_wire.PARAMETERS in reply.content
    }
    assert senders == {101}


@pytest.mark.parametrize("budget", ["max-epsilon = 1.0", "max-epsilon-per-run = 1.0", 'require = ["dp-sgd"]'])
def test_parameters_never_leave_beside_a_guarantee(run_config, tmp_path, budget):
    config = run_config(keys=ONE_ROUND)
    owner = node(tmp_path / "left", f"share-parameters = true\n{budget}")
    with pytest.raises(FederationError, match="asks for a guarantee and parameters have none"):
        run(config, "kept", {100: context(config, node=owner, node_id=100)})


def test_parameters_that_left_are_in_the_ledger_without_a_guarantee(run_config, tmp_path):
    """An owner who sets a budget later must see that these parameters had a cost."""
    config = run_config(keys=ONE_ROUND | {"min-teachers": 1})
    made = context(config, node=node(tmp_path / "left", "share-parameters = true"), node_id=100)
    run(config, "told", {100: made})
    entries = Client.from_context(made).ledger.entries()
    assert [entry.parameters for entry in entries if entry.parameters] == [1]
    assert spent_in_life(entries, "record") == [None]


def test_a_round_that_costs_more_than_the_owner_allows_is_refused(run_config, tmp_path):
    config = run_config(keys=ONE_ROUND | {"fedavg.epochs": 10_000, "min-teachers": 1})
    made = context(config, node=node(tmp_path / "left", "share-parameters = true\nmax-steps = 5000"), node_id=100)
    with pytest.raises(FederationError, match="would take more than max-steps = 5000; ask for less"):
        run(config, "costly", {100: made})
    assert not [entry for entry in Client.from_context(made).ledger.entries() if entry.parameters]


def test_nodes_whose_owners_allow_it_take_part_and_no_private_text_leaves(run_config, tmp_path):
    config = run_config(keys=ONE_ROUND)
    contexts = {
        100 + index: context(config, node=node(tmp_path / name, "share-parameters = true"), node_id=100 + index)
        for index, name in enumerate(("left", "right"))
    }
    folder, grid = run(config, "allowed", contexts)
    assert [client["status"] for client in folder.read_summary()["clients"]] == ["ok", "ok"]
    assert not any(b"zugzwang" in sent for sent in grid.wire)


def spoil(change):
    def tamper(reply):
        if reply.metadata.src_node_id == 101 and student_wire.PARAMETERS in reply.content:
            arrays = {key: array.numpy().copy() for key, array in reply.content[student_wire.PARAMETERS].items()}
            change(arrays, reply.content)
            reply.content[student_wire.PARAMETERS] = ArrayRecord({key: Array(value) for key, value in arrays.items()})
        return reply

    return tamper


def not_finite(arrays, content):
    arrays["head.bias"][0] = np.nan


def wrong_shape(arrays, content):
    arrays["head.bias"] = arrays["head.bias"][:-1]


def wrong_names(arrays, content):
    arrays["gift"] = arrays.pop("head.bias")


def no_examples(arrays, content):
    content[student_wire.TRAINING][student_wire.EXAMPLES] = 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (not_finite, "not finite"),
        (wrong_shape, "expected float32"),
        (wrong_names, "exactly the student's arrays"),
        (no_examples, "not a plausible number"),
    ],
)
def test_a_bad_reply_is_left_out_of_the_mean(run_config, change, reason):
    folder, grid = run(run_config(keys=ONE_ROUND), "spoilt", tamper=spoil(change))
    statuses = {client["name"]: client["status"] for client in folder.read_summary()["clients"]}
    assert statuses["restaurants"].startswith("rejected: ")
    assert reason in statuses["restaurants"]
    returned = [reply.content for reply in replies(grid, "train") if reply.metadata.src_node_id != 101]
    counts = np.array([content[student_wire.TRAINING][student_wire.EXAMPLES] for content in returned])
    stacked = np.stack([content[student_wire.PARAMETERS]["head.bias"].numpy() for content in returned])
    mean = trained_state(load_student(folder.path))["head.bias"]
    np.testing.assert_allclose(mean, np.tensordot(counts / counts.sum(), stacked, axes=1), atol=1e-6)
