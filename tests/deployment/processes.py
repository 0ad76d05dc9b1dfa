"""A real federation on loopback: SuperLink, SuperNodes and runs as processes that a test may kill, freeze and restart.

    with federation(tmp_path) as real:
        for name in ("phones", "restaurants"):
            real.start_node(name)
        run = real.submit(rounds=1)
        real.nodes["phones"].kill()
        assert run.wait().status == "finished:completed"

Every process and all that it starts lives in the test's folder and is gone when the block is left.
"""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
import tomli_w

from knot_fed.data.reviews import builtin_examples, builtin_texts
from knot_fed.data.transfer_set import distinct_texts
from knot_fed.labels import LabelSpace
from knot_fed.launch.bundle import stage_app
from knot_fed.runs.log import FAILED, read_line
from tests.deployment.certificates import Certificates

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CONNECTION = "real"
MARK = "KNOT_FED_TEST_FOLDER"
ROWS, TEXTS = 120, 400
SMALL = {
    "wait-for": 2,
    "threads": 1,
    "timeout": 60.0,
    "teacher.epochs": 2,
    "distill.epochs": 2,
    "student.pretrain": False,
}
STARTED = re.compile(r"started run (\d+)")


class Ended(NamedTuple):
    """How a run ended: Flower's status, what it said about it, knot_fed's sentence if it failed, and seconds."""

    status: str
    details: str
    sentence: str
    seconds: float

    @property
    def completed(self):
        return self.status == "finished:completed"


@dataclass
class Member:
    """One process with all that it starts."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen | None = None

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    def family(self, name=""):
        """Return the live processes of the family whose command line holds the name."""
        if self.process is None or self.process.poll() is not None:
            return []
        parent = psutil.Process(self.process.pid)
        return [member for member in [parent, *parent.children(recursive=True)] if name in command_line(member)]

    def await_child(self, name, *, timeout=60.0):
        """Wait for a child by a part of its command line, such as flwr-clientapp or flwr-serverapp."""
        return until(lambda: self.family(name), f"{name} of {self.log.stem}", timeout=timeout)[0]

    def send(self, number):
        for member in self.family():
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)

    def kill(self):
        """Kill the family without notice."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def freeze(self):
        self.send(signal.SIGSTOP)

    def thaw(self):
        self.send(signal.SIGCONT)

    def stop(self):
        """Ask the process to end, as an engineer does."""
        self.thaw()
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()

    def said(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def await_said(self, text, *, timeout=60.0, times=1):
        until(lambda: self.said().count(text) >= times, f"{text!r} of {self.log.stem}", timeout=timeout, log=self.log)


@dataclass
class Run:
    """A submitted run, its lines as they come, and its end."""

    real: "Federation"
    process: subprocess.Popen
    folder: Path
    began: float
    lines: list[str] = field(default_factory=list)

    def __post_init__(self):
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip())

    def text(self):
        return "\n".join(self.lines)

    def await_said(self, text, *, timeout=90.0):
        until(lambda: text in self.text(), f"{text!r} of the run", timeout=timeout, log=self.real.superlink.log)

    @property
    def number(self):
        until(lambda: STARTED.search(self.text()) or self.process.poll(), "the number of the run")
        found = STARTED.search(self.text())
        assert found, self.text()
        return found.group(1)

    def status(self):
        """Ask the SuperLink for the status and its details."""
        listed = self.real.flwr("list", CONNECTION, "--format", "json", "--run-id", self.number)
        run = json.loads(listed.stdout)["runs"][0]
        return str(run["status"]), str(run.get("status-details") or run.get("details") or "")

    def wait(self, *, timeout=180.0):
        """Wait for the end of the run; a run that hangs is an AssertionError."""
        number, deadline = self.number, time.monotonic() + timeout
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=timeout)
        status, details = self.status()
        while not status.startswith("finished"):
            assert time.monotonic() < deadline, f"run {number} hangs as {status}\n{self.text()[-3000:]}"
            time.sleep(0.5)
            status, details = self.status()
        sentences = failures(self.text()) or failures(self.real.superlink.said())
        return Ended(status, details, sentences[-1] if sentences else "", time.monotonic() - self.began)

    def summary(self):
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))

    def rounds(self):
        return [json.loads(line) for line in (self.folder / "rounds.jsonl").read_text().splitlines()]

    def statuses(self):
        return {client["name"]: client["status"] for client in self.summary()["clients"]}


class Federation:
    """A SuperLink on a free loopback port, its nodes by name, and runs.

    Parameters
    ----------
    folder
        Where everything is kept.
    certificates
        Of the SuperLink; None: no TLS.
    authenticate
        Whether a node must own a registered key; needs certificates.
    """

    def __init__(self, folder, *, certificates=None, authenticate=False):
        self.folder, self.certificates = folder, certificates
        self.port, self.nodes, self.runs = free_port(), {}, []
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        write_server_files(folder / "public")
        self.bundle = stage_app(ROOT, folder / "app")
        secure = f'root-certificates = "{certificates.authority}"' if certificates else "insecure = true"
        (self.home / "config.toml").write_text(f'[superlink.{CONNECTION}]\naddress = "{self.address}"\n{secure}\n')
        command = ["flower-superlink", "--host", "127.0.0.1", "--port", str(self.port), "--isolation", "subprocess"]
        command += ["--disable-runtime-dependency-installation", "--database", str(folder / "superlink.db")]
        command += certificates.of_superlink() if certificates else ["--insecure"]
        command += ["--enable-supernode-auth"] if authenticate else []
        self.superlink = self._member("superlink", command)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start_superlink(self):
        self.superlink.start()
        until(lambda: listens(self.port), "the SuperLink's port", log=self.superlink.log)

    def start_node(self, name, *, domain="", policy="", key=None, certificates=None, port=0, prefix=(), **settings):
        """Start a SuperNode with a private file of its own, or the one of this name again.

        Parameters
        ----------
        name
            The client's name.
        domain
            Of the built-in reviews; empty: the name's.
        policy
            The release policy, as TOML.
        key
            Private key of an authenticated node.
        certificates
            Whose authority the node trusts; None: the federation's.
        port
            Where it finds the SuperLink, such as a proxy's.
        prefix
            Command that runs it, such as faketime's.
        **settings
            Further keys of its node configuration.
        """
        if name not in self.nodes:
            folder = self.folder / name
            folder.mkdir()
            write_reviews(folder / "private.csv", domain or name)
            (folder / "policy.toml").write_text(policy, encoding="utf-8")
            paths = {"data": folder / "private.csv", "state-dir": folder / "state", "policy": folder / "policy.toml"}
            node = {"name": name, **{key: str(path) for key, path in paths.items()}, **settings}
            trusted = certificates or self.certificates
            command = [*prefix, "flower-supernode", "--superlink", f"127.0.0.1:{port or self.port}"]
            command += ["--port", str(free_port()), "--isolation", "subprocess"]
            command += ["--node-config", " ".join(f"{key}={json.dumps(value)}" for key, value in node.items())]
            command += ["--root-certificates", str(trusted.authority)] if trusted else ["--insecure"]
            command += ["--auth-supernode-private-key", str(key)] if key else []
            self.nodes[name] = self._member(name, command)
        return self.nodes[name].start()

    def submit(self, keys=None, **settings):
        """Submit a run, its name `run-1` and so on unless given; keys with dots come in the mapping."""
        config = {**SMALL, "name": f"run-{len(self.runs) + 1}", **(keys or {})}
        config |= {key.replace("_", "-"): value for key, value in settings.items()}
        config |= {"data.root": str(self.folder / "public"), "data.public": "books", "data.transfer": "forum"}
        config |= {"runs-dir": str(self.folder / "runs"), "state-dir": str(self.folder / "server-state")}
        overrides = self.home / f"submitted-{len(self.runs) + 1}.toml"
        overrides.write_text(tomli_w.dumps(config), encoding="utf-8")
        command = [script("flwr"), "run", str(self.bundle), CONNECTION, "--stream", "--run-config", str(overrides)]
        began = time.monotonic()
        process = subprocess.Popen(
            command, env=self._environment("cli"), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.runs.append(Run(self, process, self.folder / "runs" / config["name"], began))
        return self.runs[-1]

    def flwr(self, *arguments):
        """Call Flower's command for this SuperLink."""
        command = [script("flwr"), *map(str, arguments)]
        return subprocess.run(command, env=self._environment("cli"), text=True, capture_output=True, check=False)

    def close(self):
        """Kill every process that this federation has started, whoever its parent is now."""
        for run in self.runs:
            run.process.kill()
            run.process.wait()
        for member in [*self.nodes.values(), self.superlink]:
            member.kill()
        while left := left_over(self.folder):
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=5)

    def _member(self, name, command):
        environment = self._environment(name)
        command = [script(part) if part.startswith("flower-") else part for part in command]
        return Member(command, environment, self.folder / f"{name}.log")

    def _environment(self, name):
        home = self.home if name == "cli" else self.folder / f"{name}-home"
        home.mkdir(exist_ok=True)
        environment = {**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", MARK: str(self.folder)}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        environment["PATH"] = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
        return environment


@contextmanager
def federation(folder, *nodes, tls=False):
    """Run a SuperLink with the nodes of these names, each with the reviews of its domain; yields a Federation."""
    certificates = Certificates.create(folder / "certificates") if tls else None
    real = Federation(folder / "federation", certificates=certificates)
    try:
        real.start_superlink()
        for name in nodes:
            real.start_node(name)
        yield real
    finally:
        real.close()


def write_server_files(folder):
    """Write a public labelled file and a transfer set, small ones."""
    folder.mkdir()
    write_reviews(folder / "books.csv", "books")
    with (folder / "forum.csv").open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows(
            [["text"], *([text] for text in distinct_texts(builtin_texts("forum")).texts[:TEXTS])]
        )


def write_reviews(file, domain):
    """Write some of a domain's built-in reviews as a labelled file with text, label and split."""
    labels = LabelSpace.preset("sentiment")
    examples = builtin_examples(domain, labels)
    with file.open("w", encoding="utf-8", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["text", "label", "split"])
        for part in ("train", "val", "test"):
            split = getattr(examples, part)
            rows.writerows(
                [text, labels.names[label], part]
                for text, label in zip(split.texts[:ROWS], split.labels[:ROWS].tolist(), strict=True)
            )


def failures(log):
    """Return the sentences of the failed runs of a log."""
    return [line.text("text") for line in map(read_line, log.split("\n")) if line and line.event == FAILED]


def until(found, what, *, timeout=60.0, log=None):
    """Poll until there is something, and return it; AssertionError with the log's end if there is not in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(0.1)
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:] if log else ""
    raise AssertionError(f"no {what} within {timeout:g} s\n{tail}")


def left_over(folder):
    """Find live processes by the mark in their environment, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def command_line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def script(name):
    beside = BIN / name
    return str(beside) if beside.exists() else shutil.which(name) or name


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
