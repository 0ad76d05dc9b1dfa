"""A real federation on loopback: SuperLink, SuperNodes and runs as processes that a test may kill, freeze and restart.

    with federation(tmp_path) as real:
        for name in ("phones", "restaurants"):
            real.start_node(name)
        run = real.submit(rounds=1)
        real.nodes["phones"].kill()
        assert run.wait().status == "finished:completed"

Every process and all that it starts lives in the test's folder and is gone when the block is left.
"""

import json
import os
import subprocess
from contextlib import contextmanager, suppress

import psutil
import tomli_w

from knot_fed.launch.bundle import stage_app
from tests.deployment.certificates import Certificates
from tests.deployment.members import BIN, MARK, ROOT, Member, free_port, left_over, listens, script, until
from tests.deployment.review_files import write_reviews, write_server_files
from tests.deployment.submitted_run import SubmittedRun

CONNECTION = "real"
SMALL = {
    "wait-for": 2,
    "threads": 1,
    "timeout": 60.0,
    "teacher.epochs": 2,
    "distill.epochs": 2,
    "student.pretrain": False,
}


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
        self._write_connection()
        self.superlink = self._member("superlink", self._superlink_command(authenticate))

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
            node = {**self._write_client_files(name, domain or name, policy), **settings}
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
        process = subprocess.Popen(
            command, env=self._environment("cli"), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        folder = self.folder / "runs" / config["name"]
        self.runs.append(SubmittedRun(process, folder, self.superlink, self.list_run))
        return self.runs[-1]

    def list_run(self, number):
        """Return what `flwr list` says about one run."""
        listed = self.flwr("list", CONNECTION, "--format", "json", "--run-id", number)
        return json.loads(listed.stdout)["runs"][0]

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

    def _write_connection(self):
        certificates = self.certificates
        secure = f'root-certificates = "{certificates.authority}"' if certificates else "insecure = true"
        (self.home / "config.toml").write_text(f'[superlink.{CONNECTION}]\naddress = "{self.address}"\n{secure}\n')

    def _superlink_command(self, authenticate):
        command = ["flower-superlink", "--host", "127.0.0.1", "--port", str(self.port), "--isolation", "subprocess"]
        command += ["--disable-runtime-dependency-installation", "--database", str(self.folder / "superlink.db")]
        command += self.certificates.of_superlink() if self.certificates else ["--insecure"]
        return command + (["--enable-supernode-auth"] if authenticate else [])

    def _write_client_files(self, name, domain, policy):
        """Write a client's private file and policy; return its node configuration."""
        folder = self.folder / name
        folder.mkdir()
        write_reviews(folder / "private.csv", domain)
        (folder / "policy.toml").write_text(policy, encoding="utf-8")
        paths = {"data": folder / "private.csv", "state-dir": folder / "state", "policy": folder / "policy.toml"}
        return {"name": name, **{key: str(path) for key, path in paths.items()}}

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
