import logging
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto

from knot_fed.federation.wire import envelope, exchange, student_wire
from knot_fed.federation.wire.answer_arrays import answer_arrays
from knot_fed.labels import LabelSpace
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.tables import summary_table
from knot_fed.server_app import federate
from knot_fed.system.terminal import make_console
from knot_fed.types import Metrics, TeacherAnswer
from tests.conftest import small_config
from tests.fakes import InProcessGrid, context
from tests.federation.server.hostile import ANSWERS, HANDSHAKES, MARKER, METRICS

pytestmark = pytest.mark.slow

HONEST = ("honest-0", "honest-1", "honest-2")
ODD = ("foreign-sender", "answers-twice", "answers-nothing-asked", "long-error")
LABELS = exchange.canonical_labels(LabelSpace.preset("sentiment"))
QUICK = {"data.limit": 40, "distill.epochs": 1, "distill.loss": "mse", "student.pretrain": False}
QUICK |= {"weights.scheme": "confidence"}
CLAIM = exchange.Claim("none", float("inf"), 0.0)


def honest_answer(message, name):
    """Answer as a client does, with uniform soft labels and without a model."""
    if message.metadata.message_type == "query":
        return exchange.pack_handshake(exchange.Handshake(envelope.PROTOCOL, LABELS, "", name))
    if message.metadata.message_type == "evaluate":
        return student_wire.pack_metrics(Metrics(0.5, 0.55, 0.6, 0.5, 0.5, 0.1, 20))
    request = exchange.unpack_train_request(message.content)
    count = request.stop - request.start
    flat = TeacherAnswer(np.full((count, 5), 0.2, np.float32), np.ones(count, np.float32), 9)
    reply = exchange.TrainReply(flat, reused=False, seconds=0.1, claim=CLAIM)
    arrays = answer_arrays(flat, privacy=small_config(Path(), {}).privacy, scored=True)
    return exchange.pack_soft_labels(reply, arrays, round_number=request.round)


def changes_of(kind):
    return {"query": HANDSHAKES, "train": ANSWERS, "evaluate": METRICS}[kind]


class HostileGrid(InProcessGrid):
    """Carries honest answers, hostile ones according to the node's name, and unrequested replies."""

    def send_and_receive(self, messages, *, timeout=None):
        replies = [self.answer(message) for message in messages]
        by_name = {self.contexts[reply.metadata.src_node_id].node_config["name"]: reply for reply in replies}
        if replies[0].metadata.message_type == "train":
            by_name["foreign-sender"].metadata.__dict__["_src_node_id"] = by_name["honest-1"].metadata.src_node_id
            by_name["answers-nothing-asked"].metadata.__dict__["_reply_to_message_id"] = "never-sent"
            second = message_from_proto(message_to_proto(by_name["answers-twice"]))
            return [*replies, second]
        return replies


def answer(message, node):
    name, kind = node.node_config["name"], message.metadata.message_type
    content = honest_answer(message, name)
    if name == "long-error" and kind == "train":
        return Message(Error(7, "\x1b[31m" + "x" * 10**6), reply_to=message)
    if name in changes_of(kind):
        content = changes_of(kind)[name][0](content)
    return Message(content, reply_to=message)


class Lines(logging.Handler):
    """Collects the log lines."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """One run with three honest clients and one hostile client of each kind: its folder, summary and log."""
    folder = tmp_path_factory.mktemp("attacked")
    config = small_config(folder, QUICK)
    names = [*HONEST, *ODD, *ANSWERS, *METRICS, *HANDSHAKES]
    nodes = {100 + place: context(config, node={"name": name}, node_id=100 + place) for place, name in enumerate(names)}
    grid = HostileGrid(nodes, app=answer)
    run = RunFolder.create(Path(config.runs_dir), "attacked")
    run.write_config(config.to_mapping())
    handler = Lines()
    logging.getLogger("knot_fed").addHandler(handler)
    federate(grid, config, run)
    logging.getLogger("knot_fed").removeHandler(handler)
    return run.read_summary(), dict(zip(names, nodes, strict=True)), handler.lines


def statuses(summary):
    return {client["name"]: client["status"] for client in summary["clients"]}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_hostile_answer_is_refused_under_the_nodes_name(attacked, name):
    status = statuses(attacked[0])[name]
    assert status.startswith("rejected: ")
    assert re.search(ANSWERS[name][1], status), status
    assert status.isprintable()
    assert len(status) < 600


@pytest.mark.parametrize("name", HANDSHAKES)
def test_a_hostile_handshake_is_refused_before_any_training(attacked, name):
    status = statuses(attacked[0])[f"node {attacked[1][name]}"]
    assert re.search(HANDSHAKES[name][1], status), status
    assert status.isprintable()
    assert len(status) < 600


@pytest.mark.parametrize("name", METRICS)
def test_hostile_metrics_are_refused_and_the_clients_answer_still_counts(attacked, name):
    summary, _, lines = attacked
    assert statuses(summary)[name] == "ok"
    assert name not in summary["domains"]
    said = [line for line in lines if line.startswith(f"{name}: evaluation")]
    assert said
    assert re.search(METRICS[name][1], said[0]), said[0]


def test_a_name_that_two_nodes_claim_is_given_to_neither(attacked):
    summary, nodes, _ = attacked
    assert "honest-0" not in statuses(summary)
    assert "as another node does" in statuses(summary)[f"node {nodes['honest-0']}"]


def test_the_run_goes_on_with_the_rest(attacked):
    summary, _, _ = attacked
    counted = Counter(status.partition(":")[0] for status in statuses(summary).values())
    assert summary["status"] == "ok"
    assert counted["ok"] == len(HONEST) - 1 + len(METRICS) + 1
    assert counted["rejected"] == len(ANSWERS) + 1
    assert counted["refused"] == len(HANDSHAKES) + 1


def test_replies_that_nobody_asked_for_count_for_nobody(attacked):
    summary, _, lines = attacked
    said = statuses(summary)
    assert said["foreign-sender"] == said["answers-nothing-asked"] == "no answer"
    assert said["answers-twice"] == "ok"
    assert sum("sent an unexpected or repeated reply" in line for line in lines) == 3


def test_an_error_of_any_length_is_a_number(attacked):
    assert (
        statuses(attacked[0])["long-error"]
        == "rejected: its node does not run this app (Flower's error 7); see the client's log"
    )


def test_nothing_is_unpickled(attacked):
    assert not Path(MARKER).exists()


def test_what_peers_said_prints_in_the_table_as_it_stands(attacked, capsys):
    make_console().print(summary_table(attacked[0]))
    assert "[31m[bold]no[/italic]" in capsys.readouterr().out


def test_an_empty_string_can_be_counted():
    content = envelope.pack_refusal("")
    assert envelope.count_bytes(content) == len("reason")
    assert envelope.count_bytes(RecordDict()) == 0
