"""Virtual clients on a Ray cluster: two real nodes on two loopback addresses, and addresses that are none."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from knot_fed.errors import ConfigError
from knot_fed.launch.cluster import check_ray_address
from knot_fed.launch.simulation import federation_settings

HEAD, SECOND = "127.0.0.2", "127.0.0.3"  # Ray takes another address of this machine for 127.0.0.1
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
OPTIONS = ["--num-cpus=1", "--object-store-memory=100000000", "--block", "--disable-usage-stats"]
QUICK = {"data.limit": 60, "teacher.epochs": 1, "distill.epochs": 1, "student.pretrain": "false"}


@pytest.mark.parametrize("address", ["here", "10.0.0.1", ":6379", "10.0.0.1:0", "ray://10.0.0.1:6379", "a:b:c"])
def test_what_is_no_address_is_refused_before_anything_starts(address):
    with pytest.raises(ConfigError, match=r"^--ray-address .* is not HOST:PORT"):
        check_ray_address(address)


def test_an_address_where_nothing_answers_is_refused_in_one_sentence():
    with pytest.raises(ConfigError, match=r"nothing answers there \(Connection refused\)"):
        check_ray_address(f"{HEAD}:{free_port()}")


def test_a_clusters_own_resources_cannot_be_set():
    for key in ("num_cpus", "num_gpus"):
        with pytest.raises(ConfigError, match=f"init_args.{key} cannot be set with --ray-address"):
            federation_settings(json.dumps({"init_args": {key: 1}}), num_supernodes=2, ray_address="10.0.0.1:6379")


@contextmanager
def ray_node(folder, *arguments):
    """Run a Ray node until the end of the context, and stop it with all that it started."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with (folder / "ray.log").open("ab") as log:
        node = psutil.Popen(
            [BIN / "ray", "start", *arguments, *OPTIONS], env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield node
    finally:
        family = node.children(recursive=True)
        os.killpg(node.pid, signal.SIGTERM)
        node.wait(30)
        _, left = psutil.wait_procs(family, timeout=20)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def free_port():
    with socket.socket() as probe:
        probe.bind((HEAD, 0))
        return probe.getsockname()[1]


def wait(until, *, seconds=90):
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def opened(port):
    with socket.socket() as probe:
        return probe.connect_ex((HEAD, port)) == 0


def raylets(node):
    return [child for child in node.children() if child.name() == "raylet"]


def actors_of(node, seen):
    """Note the processes of virtual clients that this node has started."""
    for raylet in raylets(node):
        with suppress(psutil.Error):
            seen.update(child.pid for child in raylet.children(recursive=True) if "ClientAppActor" in _title(child))


def _title(process):
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("r"), free_port()
    head = ["--head", f"--node-ip-address={HEAD}", f"--port={port}", "--include-dashboard=false"]
    with ray_node(folder, *head, f"--temp-dir={folder}") as first:
        wait(lambda: opened(port) and raylets(first))
        with ray_node(folder, f"--address={HEAD}:{port}", f"--node-ip-address={SECOND}") as second:
            wait(lambda: raylets(second))
            yield f"{HEAD}:{port}", first, second


def run_on(nodes, command, folder):
    """Run a command; return its exit code, what it printed, and the processes of virtual clients on each node."""
    started = [set() for _ in nodes]
    with (folder / "log").open("w+") as log:
        running = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        while running.poll() is None:
            for node, seen in zip(nodes, started, strict=True):
                actors_of(node, seen)
            time.sleep(0.1)
        log.seek(0)
        return running.returncode, log.read(), started


@pytest.mark.slow
def test_both_nodes_of_a_cluster_answer(cluster, tmp_path):
    address, *nodes = cluster
    folders = f'name="both" runs-dir="{tmp_path}/runs" state-dir="{tmp_path}/state" '
    command = [BIN / "flower-simulation", "--ray-address", address, "--num-supernodes", "6", "--verbose"]
    command += ["--run-config", folders + " ".join(f"{key}={value}" for key, value in QUICK.items())]
    failed, said, started = run_on(nodes, command, tmp_path)
    assert not failed, said[-3000:]
    summary = json.loads((tmp_path / "runs" / "both" / "summary.json").read_text())
    assert [client["status"] for client in summary["clients"]] == ["ok"] * 6
    answered = set(map(int, re.findall(r"\(ClientAppActor pid=(\d+)[^)]*\) .*event=sent .*message=train", said)))
    assert all(seen & answered for seen in started), (started, answered)


@pytest.mark.slow
def test_a_sweep_runs_its_federation_on_a_cluster(cluster, tmp_path):
    address, *nodes = cluster
    command = [BIN / "knot-fed", "sweep", "--ray-address", address, "--seeds", "1", "--no-fedavg"]
    command += ["--grid", "distill.loss=ot,kl", *(f"{key}={value}" for key, value in QUICK.items())]
    failed, said, started = run_on(nodes, command, tmp_path)
    assert not failed, said[-3000:]
    assert "1 federation(s) and 1 student(s)" in " ".join(said.split())
    assert all(started)
