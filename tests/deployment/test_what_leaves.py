"""One deployed run through a wire tap, and the same run simulated: what leaves, what is logged, what comes out."""

import csv
import json
import os
import re
import subprocess
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import get_object_type_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from knot_fed.data.reviews import builtin_texts
from knot_fed.data.transfer_set import distinct_texts
from knot_fed.runs.log import read_line
from tests.deployment.members import BIN, ROOT, until
from tests.deployment.real_federation import Federation
from tests.deployment.recorder import Recorder
from tests.deployment.review_files import write_reviews

pytestmark = pytest.mark.slow

CANARY = "zugzwang"
CLIENTS = ("phones", "restaurants", "hotels")
CONFIG = 'threads=1 teacher.epochs=2 distill.epochs=2 student.pretrain=false name="told" timeout=300.0'
CONTROL = {
    "register-node", "unregister-node", "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages",
    "get-run", "get-fab", "pull-object", "confirm-message-received",
}  # fmt: skip
LARGEST_CONTROL_BYTES = 2000
ANSWERED = {"protocol", "round", "examples", "reused", "seconds", "mechanism", "epsilon", "delta"}


@dataclass
class Deployed:
    """What one deployed run left."""

    real: Federation
    submitted: subprocess.CompletedProcess
    told: dict
    requests: list
    raw: bytes

    def log(self, name):
        return (self.real.folder / f"{name}.log").read_text(errors="replace")


def knot_fed(name, *arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "RAY_TMPDIR": "/tmp"}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.run(
        [BIN / name, *arguments], cwd=folder, env=environment, text=True, capture_output=True, check=False, timeout=580
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Private files that hold the canary, and the server's, for both ways to run."""
    folder = tmp_path_factory.mktemp("files")
    for name in (*CLIENTS, "books"):
        write_reviews(folder / f"{name}.csv", name)
    for name in CLIENTS:
        with (folder / f"{name}.csv").open("a", newline="") as file:
            csv.writer(file).writerows([f"the {CANARY} is {word}", label, "train"] for word, label in TAGGED)
    with (folder / "forum.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in distinct_texts(builtin_texts("forum")).texts[:600])])
    return folder


TAGGED = [("awful", "very negative"), ("fine", "neutral"), ("great", "very positive")] * 5


@pytest.fixture(scope="module")
def deployed(files, tmp_path_factory):
    """Three clients and a fourth whose file has a broken row, one run, and its status afterwards."""
    folder = tmp_path_factory.mktemp("deployed")
    real = Federation(folder / "federation")
    try:
        real.start_superlink()
        with Recorder(real.port) as tap:
            for name in (*CLIENTS, "broken"):
                data = files / f"{name}.csv"
                if name == "broken":
                    data = folder / "broken.csv"
                    data.write_text(f"text,label\n{CANARY} {CANARY},{CANARY}\n")
                real.start_node(name, domain="phones", port=tap.port, data=str(data))
            for name in (*CLIENTS, "broken"):
                real.nodes[name].await_said("SuperNode ID", timeout=200)
            folders = f'runs-dir="{real.folder / "runs"}" state-dir="{real.folder / "server-state"}"'
            reach = ["--superlink", real.address, "--insecure"]
            run = f'{CONFIG} wait-for=4 min-teachers=3 data.root="{files}" {folders}'
            submitted = knot_fed("knot-fed", "submit", "--app", ROOT, *reach, "--run-config", run, folder=folder)
            told = knot_fed("knot-fed", "status", *reach, "--json", folder=folder)
            until(lambda: real.nodes["hotels"].said().count("Sent successfully") >= 4, "last reply", timeout=60)
        for node in real.nodes.values():
            node.stop()
        yield Deployed(real, submitted, json.loads(told.stdout), tap.requests(), b"".join(map(bytes, tap.sent)))
    finally:
        real.close()


def test_the_run_completes_and_prints_the_table(deployed):
    assert deployed.submitted.returncode == 0, deployed.submitted.stdout + deployed.submitted.stderr
    assert deployed.submitted.stdout.count("before → after") == 1
    assert re.search(r"restaurants +│ ok", deployed.submitted.stdout)


def test_the_deployed_run_pools_the_same_soft_labels_as_the_simulation(deployed, files, tmp_path):
    run = f'{CONFIG} data.root="{files}"'
    simulated = knot_fed(
        "flower-simulation", "--app", ROOT, "--num-supernodes", "3", "--run-config", run, folder=tmp_path
    )
    assert simulated.returncode == 0, simulated.stdout + simulated.stderr
    ours, theirs = (
        np.load(runs / "told" / "pooled-soft-labels-1.npy")
        for runs in (deployed.real.folder / "runs", tmp_path / "runs")
    )
    assert ours.shape == (600, 5)
    np.testing.assert_array_equal(ours, theirs)


def test_every_record_that_leaves_a_client_is_accounted_for(deployed):
    pushed, replies = {}, []
    for path, body in deployed.requests:
        call = path.rpartition("/")[2]
        if call == "push-object":
            request = PushObjectRequest.FromString(body)
            pushed[request.object_id] = request.object_content
        elif call == "push-messages":
            replies += PushMessagesRequest.FromString(body).messages_list
        else:
            assert path.startswith("/v1/fleet/")
            assert call in CONTROL
            assert len(body) < LARGEST_CONTROL_BYTES
    assert Counter(reply.metadata.message_type for reply in replies) == {"query": 4, "evaluate": 6, "train": 3}
    assert not any(reply.HasField("error") or reply.content.ByteSize() for reply in replies)
    roots = [key for key, content in pushed.items() if get_object_type_from_object_content(content) == "Message"]
    seen = {}
    messages = [inflate_object_from_contents(key, dict(pushed), objects=seen) for key in roots]
    assert set(seen) == set(pushed)
    assert len(messages) == len(replies)
    records = Counter((message.metadata.message_type, *sorted(message.content)) for message in messages)
    assert records == {
        ("query", "about"): 3,
        ("query", "refusal"): 1,
        ("evaluate", "metrics"): 6,
        ("train", "answer", "soft-labels"): 3,
    }
    for message in messages:
        check_values(message)


def check_values(message):
    content = message.content
    match message.metadata.message_type, *sorted(content):
        case "query", "about":
            assert set(content["about"]) == {"protocol", "labels", "fingerprint", "name"}
            assert content["about"]["name"] in CLIENTS
        case "query", "refusal":
            assert set(content["refusal"]) == {"reason"}
            assert content["refusal"]["reason"].startswith("the private file: the label column has values outside")
        case "evaluate", "metrics":
            assert set(content["metrics"]) == {"sd", "sd_calibrated", "w1", "accuracy", "macro_f1", "ece", "examples"}
        case "train", *_:
            assert set(content["answer"]) == ANSWERED
            shapes = {key: tuple(array.shape) for key, array in content["soft-labels"].items()}
            assert shapes == {"soft-labels": (600, 5), "confidence": (600,)}


def test_a_canary_in_private_files_is_nowhere_outside_them(deployed):
    real = deployed.real
    assert len(deployed.raw) > 3 * 600 * 6 * 4
    assert CANARY.encode() not in deployed.raw.lower()
    kept = [file for folder in ("runs", "server-state") for file in (real.folder / folder).rglob("*") if file.is_file()]
    kept += [file for file in real.folder.iterdir() if file.suffix in (".log", ".db", ".db-wal")]
    assert {file.name for file in kept} >= {"superlink.log", "superlink.db", "phones.log", "broken.log", "run.log"}
    holding = [file.name for file in kept if CANARY.encode() in file.read_bytes().lower()]
    assert holding == []
    assert CANARY not in (deployed.submitted.stdout + deployed.submitted.stderr).lower()


def test_what_is_wrong_with_a_private_file_stands_in_its_owners_log_only(deployed):
    said = "broken.csv: column 'label': 1 of 1 rows are neither a label name nor 0..4"
    assert said in deployed.log("broken")
    assert said not in deployed.log("superlink")
    assert b"broken.csv" not in deployed.raw


@pytest.mark.parametrize("name", [*CLIENTS, "broken"])
def test_a_clients_log_has_one_line_for_each_message(deployed, name):
    lines = [line for text in deployed.log(name).splitlines() if (line := read_line(text))]
    events = [line for line in lines if line.event != "note"]
    crossings = [(event.event, event.text("message")) for event in events]
    kinds = ["query"] if name == "broken" else ["query", "evaluate", "train", "evaluate"]
    assert crossings == [(event, kind) for kind in kinds for event in ("received", "sent")]
    assert {event.text("node") for event in events} == {name}
    assert all((event.text("outcome") == "ok") == (name != "broken") for event in events if event.event == "sent")


def test_status_tells_nodes_by_name_rounds_and_bytes(deployed):
    names = {node["name"]: node["status"] for node in deployed.told["nodes"]}
    assert {name: names[name] for name in CLIENTS} == dict.fromkeys(CLIENTS, "online")
    run = deployed.told["runs"][0]
    assert (run["status"], run["phase"], run["round"], run["rounds"]) == ("finished:completed", "finished", 1, 1)
    summary = json.loads((deployed.real.folder / "runs" / "told" / "summary.json").read_text())
    bytes_up = {client["name"]: client["bytes_up"] for client in summary["clients"]}
    for client in run["traffic"]:
        if client["name"] in CLIENTS:
            assert client["bytes-up"] > bytes_up[client["name"]] > 0
