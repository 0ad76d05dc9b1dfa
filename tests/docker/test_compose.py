"""The commands of docs/how-to/deploy.md, as they stand there, and what a client in a container can reach."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from knot_fed.deployment import certificates, credentials

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DATA = Path(os.environ.get("KNOT_FED_SENTIMENT", ROOT.parent / "shared" / "data" / "sentiment"))
CLIENTS = {"client-a": "product", "client-b": "tweets", "client-c": "nyt"}
SERVICES = ["superlink", *CLIENTS]
SECONDS = 1800
UNREACHABLE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()
    print("reached")
except OSError as error:
    print("unreachable")
"""
ASK = """
import ssl, sys, urllib.error, urllib.request
trust = ssl.create_default_context(cafile="/credentials/ca.crt")
request = urllib.request.Request("https://superlink:9093" + sys.argv[1], data=b"", method="POST")
try:
    print(urllib.request.urlopen(request, context=trust, timeout=60).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""

pytestmark = pytest.mark.docker


class Host:
    """A copy of the repository beside a folder of data, as on a host of its own."""

    def __init__(self, folder):
        self.folder = folder / "knot_fed"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PORT": str(self.port),
            "COMPOSE_PROJECT_NAME": f"knot-fed-test-{self.port}",
        }
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.folder / name)
        (folder / "shared" / "data").mkdir(parents=True)
        (folder / "shared" / "data" / "sentiment").symlink_to(DATA.resolve())

    def run(self, command, **settings):
        return subprocess.run(
            command, shell=isinstance(command, str), cwd=self.folder, env={**self.environment, **settings},
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip

    def succeed(self, command, **settings):
        done = self.run(command, **settings)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def inside(self, service, *command):
        return self.succeed(["docker", "compose", "exec", "-T", service, *command]).strip()

    def container(self, service):
        return self.succeed(["docker", "compose", "ps", "--quiet", service]).strip()

    def logs(self, service):
        return self.succeed(["docker", "compose", "logs", "--no-color", service])

    def join_once(self, name):
        """Let a node with the credentials of this name try to join, until it gives up."""
        command = ["docker", "compose", "run", "--rm", "--no-deps", "-T", "client-a"]
        return self.run(command, CLIENT_A=name)


def page_commands(*starts):
    """Find the one command of the page's first block that starts so, for each start."""
    text = (ROOT / "docs" / "how-to" / "deploy.md").read_text().split("```")[1].replace("\\\n", " ")
    lines = [re.sub(r" +# .*", "", line).strip() for line in text.splitlines()]
    found = [[line for line in lines if line.startswith(start)] for start in starts]
    assert [len(lines) for lines in found] == [1] * len(starts), found
    return [lines[0] for lines in found]


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    if not (DATA / "product.jsonl.gz").is_file():
        pytest.skip(f"{DATA} is not there; name the folder in KNOT_FED_SENTIMENT")
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker Engine answers")
    host = Host(tmp_path_factory.mktemp("host"))
    init, up = page_commands("knot-fed credentials init", "docker compose up")
    try:
        host.succeed(init)
        host.succeed("docker compose build --quiet")
        host.succeed(up)
        yield host
    finally:
        host.run("docker compose down --volumes --timeout 5")


@pytest.fixture(scope="module")
def submitted(host):
    (submit,) = page_commands("knot-fed submit")
    return host.succeed(f"{submit} --superlink 127.0.0.1:{host.port}")


def test_the_commands_of_the_page_end_with_the_table_of_three_clients(submitted):
    assert "before → after" in submitted
    for name in CLIENTS.values():
        assert re.search(rf"{name} +│ ok", submitted)


def test_pooled_soft_labels_equal_those_of_the_simulation(host, submitted):
    name = re.search(r"run folder on the server: runs/(\S+)", submitted).group(1)
    deployed = host.folder / "deployed.npy"
    host.succeed(f"docker compose cp superlink:/server/runs/{name}/pooled-soft-labels-1.npy {deployed}")
    host.succeed(
        "flower-simulation --app . --num-supernodes 3 --run-config simulations/sentiment.toml"
        """ --run-config 'name="virtual" threads=1 wait-for=3'"""
    )
    virtual = np.load(host.folder / "runs" / "virtual" / "pooled-soft-labels-1.npy")
    assert virtual.shape[1] == 5
    np.testing.assert_array_equal(np.load(deployed).astype(np.float16), virtual.astype(np.float16))


@pytest.mark.parametrize("service", CLIENTS)
def test_a_client_sees_only_its_own_file_and_key(host, service):
    name = CLIENTS[service]
    found = host.inside(service, "sh", "-c", "find / -name '*.jsonl.gz' -not -path '/proc/*' 2>/dev/null || true")
    assert found.split() == ["/private/examples.jsonl.gz"]
    assert host.inside(service, "ls", "/private").split() == ["examples.jsonl.gz", "policy.toml"]
    assert host.inside(service, "ls", "/credentials").split() == ["ca.crt", "node.key", "node.pub"]
    seen = host.inside(service, "sha256sum", "/private/examples.jsonl.gz", "/credentials/node.key").split()[::2]
    theirs = DATA / f"{name}.jsonl.gz", host.folder / "credentials" / "clients" / name / "node.key"
    assert seen == [hashlib.sha256(path.read_bytes()).hexdigest() for path in theirs]
    mounts = json.loads(host.succeed(["docker", "inspect", "-f", "{{json .Mounts}}", host.container(service)]))
    assert {mount["Destination"]: mount["RW"] for mount in mounts} == {
        "/credentials": False, "/private/examples.jsonl.gz": False, "/private/policy.toml": False, "/state": True,
    }  # fmt: skip


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_runs_as_root_or_writes_outside_its_volumes(host, service):
    assert host.inside(service, "id", "-u") not in ("", "0")
    assert host.inside(service, "sh", "-c", "touch /opt/knot-fed/x 2>/dev/null || echo refused") == "refused"
    assert re.search(r"CapEff:\s+0+\b", host.inside(service, "grep", "CapEff", "/proc/self/status"))
    limits = host.succeed(
        ["docker", "inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.SecurityOpt}}",
         host.container(service)]
    ).split()  # fmt: skip
    assert int(limits[0]) > 0
    assert int(limits[1]) > 0
    assert "no-new-privileges:true" in limits[2]


def test_a_client_reaches_no_other_client_and_not_the_outside(host):
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    for other in ("client-b", "client-c"):
        address = host.succeed(["docker", "inspect", "-f", template, host.container(other)]).strip()
        for target in {other, address}:
            assert host.inside("client-a", "python", "-c", UNREACHABLE, target, "9094") == "unreachable"
    assert host.inside("client-a", "python", "-c", UNREACHABLE, "192.0.2.1", "443") == "unreachable"
    assert host.inside("client-a", "python", "-c", UNREACHABLE, "superlink", "9093") == "reached"


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"])
def test_a_client_can_neither_start_runs_nor_register_nodes_nor_take_tasks(host, path):
    assert host.inside("client-a", "python", "-c", ASK, path) == "403"
    assert f"path={path}" in host.logs("superlink")


def test_no_secret_is_in_an_image_an_environment_or_a_command(host):
    keys = [*(host.folder / "credentials").glob("**/*.key")]
    secrets = [line for key in keys for line in key.read_text().splitlines() if not line.startswith("-")]
    assert len(keys) == 5
    told = host.succeed(["docker", "history", "--no-trunc", "knot-fed:cpu"])
    told += host.succeed(["docker", "inspect", "knot-fed:cpu"])
    told += "".join(host.succeed(["docker", "inspect", host.container(service)]) for service in SERVICES)
    told += "".join(host.logs(service) for service in SERVICES)
    assert "PRIVATE KEY" not in told
    assert not [secret for secret in secrets if secret in told]
    found = host.succeed(
        ["docker", "run", "--rm", "knot-fed:cpu", "sh", "-c", "find / -xdev -name '*.key' 2>/dev/null || true"]
    )
    assert found.split() == []


def test_a_client_says_when_no_app_is_pinned_and_does_not_start_on_a_wrong_pin(host):
    assert "no app is pinned" in host.logs("client-a")
    refused = host.run(["docker", "compose", "run", "--rm", "--no-deps", "-T", "client-a"], APP_DIGEST="x")
    assert refused.returncode == 1
    assert "the pinned app is not a hexadecimal SHA-256" in refused.stdout + refused.stderr


def test_a_client_whose_owner_has_pinned_another_app_runs_nothing_of_it(host):
    (submit,) = page_commands("knot-fed submit")
    host.succeed("docker compose up --detach --wait client-a", APP_DIGEST="0" * 64)
    submitted = host.succeed(f"{submit} --superlink 127.0.0.1:{host.port}")
    assert "does not run this app" in submitted
    assert "which is not pinned; nothing of it was run" in host.logs("client-a")
    host.succeed("docker compose up --detach --wait")


def test_a_node_that_nobody_registered_is_refused(host):
    host.succeed("knot-fed credentials add stranger")
    refused = host.join_once("stranger")
    assert refused.returncode != 0
    assert "Failed to initialize the connection" in refused.stdout + refused.stderr
    assert re.search(r"fleet/activate-node HTTP/1.1\" 4\d\d", host.logs("superlink"))


def test_a_node_that_trusts_another_authority_does_not_join(host):
    host.succeed("knot-fed credentials add spy")
    host.succeed("knot-fed credentials init --clients nobody --out elsewhere --env-file elsewhere.env")
    shutil.copyfile(host.folder / "elsewhere" / "ca.crt", host.folder / "credentials" / "clients" / "spy" / "ca.crt")
    refused = host.join_once("spy")
    assert refused.returncode != 0
    assert "CERTIFICATE_VERIFY_FAILED" in refused.stdout + refused.stderr


def test_an_expired_certificate_is_refused_until_it_is_renewed(host, monkeypatch):
    monkeypatch.setattr(certificates, "CLOCK_SKEW", timedelta(days=3))
    folder = host.folder / "credentials"
    credentials._write_server_certificate(folder, credentials.HOSTS, days=-1)
    credentials._give_away(folder / "superlink")
    assert "EXPIRED" in host.succeed("knot-fed credentials show")
    host.succeed("docker compose restart superlink")
    refused = host.join_once("product")
    assert refused.returncode != 0
    assert "certificate has expired" in refused.stdout + refused.stderr
    host.succeed("knot-fed credentials renew")
    host.succeed("docker compose restart superlink")
    host.succeed("docker compose up --detach --wait")
