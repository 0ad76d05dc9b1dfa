import json
import os
import re
import subprocess
from datetime import timedelta

import pytest
from flwr.app import ConfigRecord, RecordDict
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.federation.wire import envelope
from tests.deployment.certificates import Certificates
from tests.deployment.hostile_node import HostileNode
from tests.deployment.members import BIN, ROOT, free_port
from tests.deployment.real_federation import Federation, federation
from tests.federation.server.test_forged_logs import REFUSALS

SMALL = (
    "wait-for=2 threads=1 timeout=60.0 teacher.epochs=2 distill.epochs=2 student.pretrain=false data.limit=400"
    ' name="told"'
)


def submit(real, *options, config=SMALL):
    folders = f'runs-dir="{real.folder / "runs"}" state-dir="{real.folder / "server-state"}"'
    command = [BIN / "knot-fed", "submit", "--app", ROOT, "--superlink", real.address, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(real.folder)}
    return subprocess.run(
        [*command, "--run-config", config, "--run-config", folders],
        cwd=real.folder, env=environment, text=True, capture_output=True, check=False, timeout=580,
    )  # fmt: skip


def refusal(*options):
    """Call the command in this process, and return the one sentence that it ends with."""
    run = CliRunner().invoke(app, ["submit", "--app", str(ROOT), "--run-config", SMALL, *map(str, options)])
    assert run.exit_code == 1
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, run.stderr
    return lines[0]


@pytest.fixture
def superlink(tmp_path):
    """Start a SuperLink with TLS and no nodes; the certificate lasts as long as asked."""
    started = []

    def start(lasts=timedelta(days=2)):
        certificates = Certificates.create(tmp_path / "certificates", lasts=lasts)
        real = Federation(tmp_path / "federation", certificates=certificates)
        started.append(real)
        real.start_superlink()
        return real

    yield start
    for real in started:
        real.close()


@pytest.mark.slow
def test_submit_over_tls_prints_the_table_once_and_warns_of_a_certificate_near_its_end(tmp_path):
    with federation(tmp_path, "phones", "restaurants", tls=True) as real:
        run = submit(real, "--root-certificates", real.certificates.authority)
        assert run.returncode == 0, run.stdout + run.stderr
        assert run.stdout.count("before → after") == 1
        assert re.search(r"phones +│ ok", run.stdout)
        assert "event=" not in run.stdout
        assert "knot_fed: round 1: 2 of 2 clients answered\n" in run.stdout
        assert "expires in 1 day(s)" in run.stderr
        assert (real.folder / "runs" / "told" / "summary.json").is_file()
        assert not list(real.folder.glob("knot-fed-*"))


def refuse(message, node):
    return RecordDict({envelope.REFUSAL: ConfigRecord({"reason": REFUSALS[node.name]})})


@pytest.mark.slow
def test_a_run_that_clients_refuse_has_failed_whatever_they_say(tmp_path):
    with federation(tmp_path) as real:
        nodes = [HostileNode(real.address, name, refuse).start() for name in ("a-table", "a-start")]
        run = submit(real, "--insecure")
        told = CliRunner().invoke(app, ["status", "--superlink", real.address, "--insecure", "--json"])
        for node in nodes:
            node.stop()
    assert run.returncode == 1, run.stdout + run.stderr
    assert "before → after" not in run.stdout
    assert "0 client(s) passed the handshake, min-teachers is 2" in run.stderr
    assert told.exit_code == 0, told.exception
    (seen,) = json.loads(told.stdout)["runs"]
    assert (seen["status"], seen["phase"], seen["rounds"]) == ("finished:failed", "failed", 1)
    assert seen["failure"].startswith("0 client(s) passed the handshake")


def test_a_wrong_authority_is_one_sentence(superlink, tmp_path):
    real, foreign = superlink(), Certificates.create(tmp_path / "foreign")
    assert "is not from" in refusal("--superlink", real.address, "--root-certificates", foreign.authority)


def test_an_expired_certificate_is_one_sentence(superlink):
    real = superlink(-timedelta(hours=3))
    assert "has expired" in refusal("--superlink", real.address, "--root-certificates", real.certificates.authority)


def test_talk_without_tls_to_a_superlink_with_tls_is_one_sentence(superlink):
    assert "drop --insecure" in refusal("--superlink", superlink().address, "--insecure")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--insecure"], "no SuperLink answers"),
        (["--root-certificates", "absent.crt"], "no such file"),
        (["--root-certificates", ROOT / "README.md"], "not a PEM certificate"),
        (["--insecure", "--superlink", "nowhere"], "is not host:port"),
        (["--insecure", "--run-config", 'task="mood"'], "mood"),
    ],
)
def test_what_cannot_be_submitted_is_one_sentence(options, sentence):
    assert sentence in refusal("--superlink", f"127.0.0.1:{free_port()}", *options)
