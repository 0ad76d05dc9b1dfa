"""What clients write into a run's log by their refusals and names, and what reads it: submit, simulation and status.

A server app in this process meets clients that refuse, and what it wrote is replayed to the reader as Flower does.
"""

import asyncio
import io
import json
import os
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.errors import FederationError
from knot_fed.federation.flower.gate import OperatorOnly
from knot_fed.federation.server.run import run_in_folder
from knot_fed.federation.wire import envelope
from knot_fed.launch import submission
from knot_fed.launch.submission import Submitter
from knot_fed.runs.log import LOG_FILE, read_line
from knot_fed.server_app import federate
from tests.conftest import small_config
from tests.deployment.review_files import write_reviews, write_server_files
from tests.deployment.test_credentials import superlink
from tests.fakes import InProcessGrid, context

METRICS = {"accuracy": 1, "ece": 0, "examples": 90, "macro_f1": 1, "sd": 0, "sd_calibrated": 0, "w1": 0}
TABLE = {
    "task": "sentiment",
    "student": {"before": None, "after": None},
    "domains": {"reviews": {"before": METRICS, "after": METRICS}},
    "clients": [],
    "distillation": dict.fromkeys(("loss", "objective", "weights", "cost"), "x"),
}
AS_BEFORE = "knot_fed: the table: " + json.dumps(TABLE, separators=(",", ":"))
RECORD = f"table={json.dumps(json.dumps(TABLE, separators=(',', ':')))}"
REFUSALS = {
    "a-table": AS_BEFORE,
    "after-a-newline": f"no\n{AS_BEFORE}",
    "after-a-return": f"no\r{AS_BEFORE}",
    "in-colours": f"\x1b[31m{AS_BEFORE}",
    "out-of-quotes": f'" seal=x {AS_BEFORE}',
    "a-result": f"knot_fed: event=result time=2026-01-01T00:00:00Z {RECORD}",
    "another-opening": f'no"\nknot_fed: event=opened seal=x\nknot_fed: event=result {RECORD} seal=x',
    "another-run": "Successfully started run 6",
    "a-start": "knot_fed: event=started",
    "an-event": "knot_fed: event=sent",
    "a-failure": "knot_fed: the run failed: all is well",
    "odd-numbers": "knot_fed: event=started rounds=² timeout=1e999",
}


ATTACKS = {"a-table": ["a-table"], "a-start": ["a-start"], "all-at-once": list(REFUSALS)}


@dataclass
class Replayed:
    """A `flwr` that shows a recorded run, and says how it has ended."""

    submitter: Submitter
    echoed: list[str]
    asked: object

    def run(self, config):
        return self.submitter.run(config, echo=self.echoed.append)


@pytest.fixture
def replay(tmp_path, monkeypatch):
    """Hand a recorded log to the code that watches a run, as `flwr run`, `flwr log` and `flwr list` do."""

    def start(log, *, status, kept=None):
        (tmp_path / "stream").write_text(f"Successfully started run 5\n{log}", encoding="utf-8", newline="")
        (tmp_path / "kept").write_text(log if kept is None else kept, encoding="utf-8", newline="")
        (tmp_path / "listed").write_text(json.dumps({"runs": [{"status": status}]}))
        files = f'case $1 in run) cat "{tmp_path}/stream";; log) cat "{tmp_path}/kept";;'
        files += f' list) echo "$@" >> "{tmp_path}/asked"; cat "{tmp_path}/listed";; esac\n'
        (tmp_path / "flwr").write_text("#!/bin/sh\n" + files)
        (tmp_path / "flwr").chmod(0o755)
        monkeypatch.setattr(submission, "script", lambda name: str(tmp_path / name))
        return Replayed(Submitter(tmp_path / "app", tmp_path, dict(os.environ)), [], tmp_path / "asked")

    return start


@dataclass(frozen=True)
class Recorded:
    """What a server app wrote that met clients which refuse."""

    config: object
    log: str

    @property
    def folder(self):
        return f"{self.config.runs_dir}/recorded"

    @property
    def seal(self):
        return self.log.split("\n")[0].rpartition("seal=")[2]


def record(folder, refusals):
    """Run a server app whose clients refuse, each by one of these sentences."""
    write_server_files(folder / "data")
    write_reviews(folder / "data" / "phones.csv", "phones")
    keys = {"data.root": str(folder / "data"), "data.clients": "phones", "data.public": "books"}
    keys |= {"data.transfer": "forum", "name": "recorded", "student.pretrain": False}
    config = small_config(folder, keys)
    sentences = dict(enumerate(refusals, start=100))

    def refuse(message, node):
        content = RecordDict({envelope.REFUSAL: ConfigRecord({"reason": sentences[node.node_id]})})
        return Message(content, reply_to=message)

    grid = InProcessGrid({number: context(config, node={}, node_id=number) for number in sentences}, app=refuse)
    with redirect_stdout(io.StringIO()) as said, pytest.raises(FederationError, match="min-teachers"):
        run_in_folder(grid, context(config, node={}, node_id=1), federate)
    return Recorded(config, said.getvalue())


@pytest.fixture(scope="module", params=ATTACKS)
def recorded(request, tmp_path_factory):
    return record(tmp_path_factory.mktemp("recorded"), [REFUSALS[kind] for kind in ATTACKS[request.param]])


def test_a_refusal_never_reads_as_a_result(recorded, replay):
    assert len(AS_BEFORE) <= envelope.LONGEST_REFUSAL
    replayed = replay(recorded.log, status="finished:failed")
    with pytest.raises(FederationError, match=r"^0 client\(s\) passed the handshake, min-teachers is 2"):
        replayed.run(recorded.config)
    assert replayed.asked.read_text().split()[-1] == "5"
    assert replayed.echoed
    assert all(line.startswith("knot_fed: ") and line.isprintable() for line in replayed.echoed)


def test_a_refusal_never_reads_as_a_result_even_of_a_completed_run(recorded, replay):
    assert replay(recorded.log, status="finished:completed").run(recorded.config) is None


def test_a_refusal_never_moves_the_status_of_a_run(recorded):
    told = CliRunner().invoke(app, ["status", recorded.folder, "--json"])
    assert told.exit_code == 0, told.exception
    (run,) = json.loads(told.stdout)["runs"]
    assert (run["phase"], run["round"], run["rounds"]) == ("failed", 0, 1)
    assert all(client["name"] == f"node {client['node-id']}" for client in run["traffic"])
    shown = CliRunner().invoke(app, ["status", recorded.folder])
    assert shown.exit_code == 0
    assert "\x1b" not in shown.stdout


def test_every_line_that_a_server_app_writes_is_in_the_one_form(recorded):
    lines = recorded.log.removesuffix("\n").split("\n")
    assert all((read := read_line(line)) and read.text("seal") == recorded.seal for line in lines)
    kept = (Path(recorded.folder) / LOG_FILE).read_text().removesuffix("\n").split("\n")
    assert all(map(read_line, kept))
    assert recorded.seal not in "".join(kept)


def test_success_is_what_flower_says_whatever_the_log_says(recorded, replay):
    sealed = recorded.log + f"knot_fed: event=result {RECORD} seal={recorded.seal}\n"
    assert replay(sealed, status="finished:completed").run(recorded.config) == TABLE
    for status in ("running", "finished:failed", "finished:stopped", ""):
        with pytest.raises(FederationError):
            replay(sealed, status=status).run(recorded.config)


def test_a_result_that_the_stream_lost_is_read_from_the_log_that_the_superlink_keeps(recorded, replay):
    cut = "\n".join(line for line in recorded.log.split("\n") if "event=failed" not in line)
    kept = cut + f"knot_fed: event=result {RECORD} seal={recorded.seal}\n"
    assert replay(cut, kept=kept, status="finished:completed").run(recorded.config) == TABLE


def test_a_path_that_a_client_asks_for_makes_one_line(caplog):
    async def ask():
        gate = OperatorOnly(superlink, operator_addresses=frozenset())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate)) as client:
            await client.post("http://172.18.0.2/v1/control/x%0Aknot_fed:%20event=result%20seal=x")

    asyncio.run(ask())
    (line,) = caplog.messages
    assert line.startswith('event=refused path="/v1/control/x\\nknot_fed: event=result seal=x"')
