import logging
from collections import Counter

import pytest
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from knot_fed import client_app, fedavg_app, server_app
from knot_fed.errors import FederationError
from knot_fed.federation.wire.message_log import log_message
from knot_fed.mechanisms import base
from knot_fed.runs.log import LineFormatter, read_line
from knot_fed.runs.run_folder import RunFolder
from tests.fakes import InProcessGrid, virtual_clients

pytestmark = pytest.mark.slow

KEYS = ["event", "time", "message", "run", "round", "node", "node-id", "texts", "bytes", "seconds", "outcome"]
MAY_BE_UNKNOWN = {"round", "texts", "seconds"}


@pytest.fixture
def events(caplog):
    """The events logged so far, in order."""
    caplog.set_level(logging.INFO, logger="knot_fed")

    def read():
        lines = [read_line(LineFormatter().format(record)) for record in caplog.records]
        return [{"event": line.event, **line.facts} for line in lines if line.text("node")]

    return read


def run(config, tmp_path, *, server=server_app, client=client_app.app):
    grid = InProcessGrid(virtual_clients(config, 3), client)
    folder = RunFolder.create(tmp_path / "runs", "logged")
    folder.write_config(config.to_mapping())
    server.federate(grid, config, folder)
    return grid


@pytest.mark.parametrize(
    ("server", "client"),
    [(server_app, client_app.app), (fedavg_app, fedavg_app.client_app)],
    ids=["distillation", "fedavg"],
)
def test_every_message_gives_exactly_one_line_on_each_side(run_config, tmp_path, events, server, client):
    config = run_config(keys={"fedavg.rounds": 1, "student.pretrain": False})
    grid = run(config, tmp_path, server=server, client=client)
    lines = events()
    assert len(lines) == 2 * len(grid.wire)
    assert all(list(line) == [key for key in KEYS if key in line] for line in lines)
    assert set.union(*(set(KEYS) - set(line) for line in lines)) <= MAY_BE_UNKNOWN
    assert {line["outcome"] for line in lines} == {"ok"}
    of_server = {line["node"] for line in lines} - {f"partition-{index}" for index in range(3)}
    assert {"phones", "restaurants", "hotels"} <= of_server
    counted = Counter((line["event"], line["node"].startswith("partition")) for line in lines)
    assert set(counted.values()) == {len(grid.wire) // 2}


def test_both_sides_log_the_same_counts(run_config, tmp_path, events):
    run(run_config(rounds=2, keys={"student.pretrain": False}), tmp_path)
    trained = [line for line in events() if line["message"] == "train"]
    told = Counter((line["event"], line["round"], line["texts"], line["bytes"]) for line in trained)
    for (event, *facts), times in told.items():
        other = "received" if event == "sent" else "sent"
        assert told[(other, *facts)] == times
    assert {facts[2] for facts in told} == {"973", "974"}


def test_a_refusal_is_the_outcome_of_the_same_line(run_config, tmp_path, events):
    policy = tmp_path / "policy.toml"
    policy.write_text("max-texts-per-run = 5\n")
    config = run_config(keys={"min-teachers": 2, "student.pretrain": False})
    contexts = virtual_clients(config, 3)
    contexts[100].node_config["policy"] = str(policy)
    grid = InProcessGrid(contexts)
    folder = RunFolder.create(tmp_path / "runs", "refused")
    server_app.federate(grid, config, folder)
    lines = events()
    assert len(lines) == 2 * len(grid.wire)
    refused = [line for line in lines if line["outcome"] != "ok"]
    assert [line["event"] for line in refused] == ["sent", "received"]
    assert all("max-texts-per-run = 5" in line["outcome"] for line in refused)


@given(node=st.text(), outcome=st.text())
def test_a_nodes_name_and_a_refusal_stay_in_their_fields(node, outcome):
    InProcessGrid({})  # Flower makes messages only in a process that says which run it serves
    records, logger = [], logging.getLogger("knot_fed")
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    message = Message(RecordDict(), dst_node_id=9, message_type="query")
    try:
        log_message("received", message, node=node, outcome=outcome)
    finally:
        logger.removeHandler(handler)
    (line,) = map(LineFormatter().format, records)
    read = read_line(line)
    assert (read.event, read.text("node-id"), read.text("bytes")) == ("received", "9", "0")
    assert (read.facts["node"], read.facts["outcome"]) == (node, outcome)


def test_an_error_that_no_rule_foresees_is_told_by_kind_and_place_and_never_by_its_text(
    run_config, tmp_path, caplog, monkeypatch
):
    caplog.set_level(logging.INFO, logger="knot_fed")

    def quoting(*_, **__):
        raise ValueError("cannot read zugzwang of row 7")

    monkeypatch.setattr(base, "load_or_train_teacher", quoting)
    with pytest.raises(FederationError, match="the client failed with ValueError"):
        run(run_config(keys={"student.pretrain": False}), tmp_path)
    assert "a train failed with ValueError at base.py:" in caplog.text
    assert "zugzwang" not in caplog.text
