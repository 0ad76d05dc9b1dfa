"""The strongest attacks again, with real processes: a real SuperLink and server app, honest nodes and hostile ones."""

import json
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from flwr.app import Array, ArrayRecord, Error, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID

from knot_fed.deployment.credentials import create_credentials, public_keys, read_public_key
from knot_fed.federation.flower.registration import register_nodes
from knot_fed.federation.wire import envelope, exchange
from tests.deployment.certificates import Certificates
from tests.deployment.hostile_node import Builder, HostileNode, Objects
from tests.deployment.real_federation import CONNECTION, Federation, federation
from tests.federation.server.hostile import ANSWERS, HANDSHAKES, MARKER
from tests.federation.server.test_hostile_clients import honest_answer

pytestmark = pytest.mark.long
QUICK = {"data.limit": 60, "teacher.epochs": 1, "distill.epochs": 1, "distill.loss": "mse", "timeout": 60.0}
QUICK |= {"weights.scheme": "uniform"}
AS_IN_ONE_PROCESS = (
    "nan", "1e38", "object-pickle-as-floats", "pickle", "archive", "header-claims-1-gib", "claims-1-gib", "16-mib",
    "many-keys", "many-records", "extra-record", "empty-string", "old-round", "refusal-ansi-markup", "count-huge",
)  # fmt: skip
NAMES = ("path", "look-alike", "name-of-another")


def chunk_bomb(message, node):
    """An array of one chunk of 64 KiB that it names 10 000 times: 640 MB once put together."""
    build = Builder()
    chunk = build.add("ArrayChunk", bytes(1 << 16))
    about = {"dtype": "float32", "shape": [60, 5], "stype": "numpy.ndarray", "arraychunk_ids": [0] * 10_000}
    return of_array(build, build.add("Array", json.dumps(about).encode(), chunk), message, node)


def broken_array(message, node):
    build = Builder()
    return of_array(build, build.add("Array", b"{]"), message, node)


def of_array(build, array, message, node):
    arrays = build.add("ArrayRecord", json.dumps({exchange.SOFT_LABELS: array}).encode(), array)
    return of_records(build, {exchange.SOFT_LABELS: arrays}, message, node)


def of_records(build, records, message, node):
    content = build.add("RecordDict", json.dumps(records).encode(), *records.values())
    body = Objects.of(node.reply(message, RecordDict())).contents.popitem()[1].partition(b"\0")[2]
    return build.built(build.add("Message", body, content))


def no_message(message, node):
    build = Builder()
    return build.built(build.add("RecordDict", b"{}"))


def many_objects(message, node):
    arrays = {f"a{number}": Array(np.full(1, number, np.float32)) for number in range(150)}
    return RecordDict({exchange.SOFT_LABELS: ArrayRecord(arrays)})


class Victim:
    """The node whose name, number and messages others claim."""

    node: HostileNode | None = None


def sender_that_lies(message, node):
    """A good answer that says inside to come from another node; the SuperLink sees only the envelope."""
    lie = node.reply(message, honest_answer(message, node.name), src_node_id=Victim.node.node_id)
    return Objects.of(lie)


def envelope_that_lies(message, node):
    return [node.reply(message, honest_answer(message, node.name), src_node_id=Victim.node.node_id)]


def unasked(message, node):
    return [node.reply(message, honest_answer(message, node.name), reply_to_message_id="f" * 64)]


def instruction(message, node):
    """A message to the server that answers nothing, in the name of the SuperLink, and then a good answer."""
    made = node.reply(
        message, honest_answer(message, "x"), reply_to_message_id="", src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=SUPERLINK_NODE_ID,
    )  # fmt: skip
    return [made, honest_answer(message, node.name)]


def twice(message, node):
    return [honest_answer(message, node.name), honest_answer(message, node.name)]


def never_uploaded(message, node):
    made = node.reply(message, honest_answer(message, node.name))
    return [lambda: node.push(made, Objects.of(made), upload=False)]


RAW = {
    "chunk-bomb": (chunk_bomb, "more than (the .* bytes that )?were asked for"),
    "broken-array": (broken_array, "sent a reply that cannot be read"),
    "no-message": (no_message, "sent a reply that is not a message"),
    "many-objects": (many_objects, r"objects, expected \d+ at most"),
    "long-error": (lambda message, node: Error(7, "x" * 10**5), "does not run this app|objects? of|more than"),
    "sender-that-lies": (sender_that_lies, "^ok$"),
    "envelope-that-lies": (envelope_that_lies, "no answer"),
    "unasked": (unasked, "no answer"),
    "instruction": (instruction, "^ok$"),
    "twice": (twice, "^ok$"),
    "never-uploaded": (never_uploaded, "no answer"),
    "victim": (lambda message, node: honest_answer(message, node.name), "^ok$"),
}


def answer(message, node):
    kind = message.metadata.message_type
    if kind == "train" and node.name in RAW:
        return RAW[node.name][0](message, node)
    content = honest_answer(message, node.name)
    if kind == "train" and node.name in ANSWERS:
        return ANSWERS[node.name][0](content)
    if kind == "query" and node.name in NAMES:
        return HANDSHAKES[node.name][0](content) if node.name != "name-of-another" else as_victim(content)
    return content


def as_victim(content):
    content[envelope.ABOUT]["name"] = "twin"
    return content


class PeakMemory(threading.Thread):
    """The highest resident memory, in MiB, of the server app and of the SuperLink while they lived."""

    def __init__(self, member):
        super().__init__(daemon=True)
        self.member, self.peaks, self.stopped = member, {}, threading.Event()

    def run(self):
        while not self.stopped.wait(0.2):
            for process in self.member.family():
                with suppress(psutil.Error, OSError, StopIteration):
                    command = " ".join(process.cmdline())
                    name = next(name for name in ("flwr-serverapp", "flower-superlink") if name in command)
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    peak = int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) // 1024
                    self.peaks[name] = max(peak, self.peaks.get(name, 0))


def attack(folder, hostile, *, honest=("phones",), **keys):
    """Run one federation of honest SuperNodes and the hostile ones; returns run, nodes by name, and memory peaks."""
    with federation(folder, *honest) as real:
        nodes = {node.name: node.start() for node in hostile(real)}
        Victim.node = nodes.get("victim")
        memory = PeakMemory(real.superlink)
        memory.start()
        run = real.submit({**QUICK, "min-teachers": 1, "wait-for": len(honest) + len(nodes), **keys})
        ended = run.wait(timeout=900)
        memory.stopped.set()
        codes = {name: node.pull_as(Victim.node.node_id) for name, node in nodes.items() if name == "unasked"}
        for node in nodes.values():
            node.stop()
        return run, ended, nodes, memory.peaks, codes


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    names = [*AS_IN_ONE_PROCESS, *NAMES, "twin", *RAW]
    folder = tmp_path_factory.mktemp("attacked")
    return attack(folder, lambda real: [HostileNode(real.address, name, answer) for name in names])


def test_the_server_app_ends_well_among_hostile_nodes(attacked):
    run, ended, _, _, _ = attacked
    assert ended.completed, run.text()[-3000:]
    assert run.statuses()["phones"] == "ok"
    assert "phones" in run.summary()["domains"]


@pytest.mark.parametrize("name", AS_IN_ONE_PROCESS)
def test_a_hostile_answer_over_the_wire_is_refused_under_the_nodes_name(attacked, name):
    status = attacked[0].statuses()[name]
    assert status.startswith("rejected: ")
    bounded = "more than|objects, expected"
    assert re.search(f"{ANSWERS[name][1]}|{bounded}", status), status


@pytest.mark.parametrize("name", RAW)
def test_what_only_a_node_made_by_hand_can_send_ends_as_it_should(attacked, name):
    assert re.search(RAW[name][1], attacked[0].statuses()[name]), attacked[0].statuses()[name]


def test_hostile_names_are_refused_by_the_nodes_number(attacked):
    run, _, nodes, _, _ = attacked
    for name in ("path", "look-alike"):
        assert re.search(HANDSHAKES[name][1], run.statuses()[f"node {nodes[name].node_id}"])
    for name in ("name-of-another", "twin"):
        assert "calls itself twin, as another node does" in run.statuses()[f"node {nodes[name].node_id}"]


def test_the_superlink_stores_no_reply_to_a_message_never_sent_nor_a_second_one_nor_another_nodes(attacked):
    _, _, nodes, _, _ = attacked
    assert [name for name, node in nodes.items() if node.refused] == ["envelope-that-lies", "unasked", "twice"]


def test_the_superlink_gives_no_node_another_nodes_messages(attacked):
    assert attacked[4] == {"unasked": 401}


def test_nothing_is_unpickled(attacked):
    assert not Path(MARKER).exists()


def test_the_server_app_stays_small(attacked, capsys):
    peaks = attacked[3]
    with capsys.disabled():
        os.write(1, f"\npeak MiB among {len(attacked[2])} hostile nodes: {peaks}\n".encode())
    assert peaks["flwr-serverapp"] < 1500


@pytest.mark.parametrize("gibibytes", [0, 1])
def test_an_array_of_one_gibibyte_costs_the_server_app_nothing(tmp_path, gibibytes, capsys):
    def huge(message, node):
        content = honest_answer(message, node.name)
        if message.metadata.message_type == "train" and gibibytes and node.name == "victim":
            return huge_objects(message, node, gibibytes << 30)
        return content

    started = time.monotonic()
    names = ("victim", "honest-a", "honest-b")
    run, ended, _, peaks, _ = attack(
        tmp_path, lambda real: [HostileNode(real.address, name, huge) for name in names], honest=(), timeout=300.0
    )
    with capsys.disabled():
        os.write(1, f"\npeak MiB with {gibibytes} GiB: {peaks}, {time.monotonic() - started:.0f} s\n".encode())
    assert ended.completed
    said = run.statuses()["victim"]
    assert run.statuses()["honest-a"] == "ok"
    assert ("more than" in said or "objects, expected" in said) == bool(gibibytes)
    assert peaks["flwr-serverapp"] < 1500


def huge_objects(message, node, size):
    build, step = Builder(), 5 << 20
    chunks = [build.add("ArrayChunk", os.urandom(16) + bytes(step - 16)) for _ in range(size // step + 1)]
    about = {"dtype": "float32", "shape": [60, 5], "stype": "numpy.ndarray", "arraychunk_ids": list(range(len(chunks)))}
    return of_array(build, build.add("Array", json.dumps(about).encode(), *chunks), message, node)


def authenticated(folder, *names):
    """Return a federation whose SuperLink knows keys of these names, and each private key by its name."""
    made = folder / "credentials"
    create_credentials(made, names)
    certificates = Certificates(made / "ca.crt", *(made / "superlink" / f"server.{kind}" for kind in ("crt", "key")))
    real = Federation(folder / "federation", certificates=certificates, authenticate=True)
    return real, {name: made / "clients" / name / "node.key" for name in names}


def test_a_node_takes_neither_the_name_of_an_absent_client_nor_part_with_an_unregistered_key(tmp_path):
    real, keys = authenticated(tmp_path, "phones", "hotels", "books", "restaurants")
    public = public_keys(tmp_path / "credentials")
    try:
        real.start_superlink()
        numbers = register_nodes(
            {name: read_public_key(path) for name, path in public.items()},
            superlink=real.address, authority=tmp_path / "credentials" / "ca.crt",
        )  # fmt: skip
        number = {name: said.removeprefix("registered as node ") for name, said in numbers.items()}
        assert real.flwr("supernode", "unregister", number["restaurants"], CONNECTION).returncode == 0
        real.start_node("phones", key=keys["phones"])
        real.start_node("hotels", key=keys["books"])
        real.start_node("restaurants", key=keys["restaurants"])
        run = real.submit({**QUICK, "min-teachers": 1})
        ended = run.wait()
    finally:
        real.close()
    assert ended.completed, run.text()[-3000:]
    said = run.statuses()
    assert said.pop(f"node {number['books']}").startswith(
        "refused: calls itself hotels, and its key is registered as books"
    )
    assert said == {"phones": "ok"}
