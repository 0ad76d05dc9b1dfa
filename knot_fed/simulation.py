"""A private SuperLink of this machine for virtual clients: started and stopped, with nothing left behind."""

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knot_fed.bundle import stage_app
from knot_fed.errors import ConfigError, FederationError
from knot_fed.processes import script, sigterm_as_exit, stop
from knot_fed.submission import Connection, Submitter, flower_home

START_SECONDS = 60.0


@contextmanager
def simulator(app: Path | None, *, strategy: str = "knot") -> Iterator[Submitter]:
    """Start a private SuperLink for an app, and stop it with all that it started, also on a SIGTERM.

    Parameters
    ----------
    app
        Folder of an app of the user's own; None: the installed one.
    strategy
        `knot`: the app's own components; `fedavg`: the reference line's.

    Raises
    ------
    ConfigError
        If the app does not say which files belong to it.
    FederationError
        If the SuperLink does not start.
    """
    with sigterm_as_exit(), tempfile.TemporaryDirectory(prefix="knot-fed-") as home:
        bundle = stage_app(app, Path(home) / "app", strategy=strategy)
        with superlink(Path(home)) as environment:
            yield Submitter(bundle, Path(home), environment)


def federation_settings(backend_config: str, *, num_supernodes: int) -> str:
    """Translate the old `--backend-config` JSON into Flower's federation settings.

    Raises
    ------
    ConfigError
        If the text is not a JSON object, or holds a setting that nothing reads.
    """
    try:
        parsed = json.loads(backend_config)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"--backend-config is not JSON ({error.msg} at {error.pos}); quote it in single quotes"
        ) from None
    if not isinstance(parsed, dict) or not all(isinstance(value, dict) for value in parsed.values()):
        raise ConfigError(
            '--backend-config is not an object of objects; write \'{"client_resources": {"num_cpus": 1}}\''
        )
    parsed.setdefault("client_resources", {}).setdefault("num_cpus", 1)
    settings = {"num-supernodes": num_supernodes}
    for section, values in parsed.items():
        if section not in ("client_resources", "init_args"):
            raise ConfigError(f"--backend-config: unknown key {section!r}; known: client_resources, init_args")
        settings |= {f"{section}-{key}".replace("_", "-"): value for key, value in values.items()}
    return " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


@contextmanager
def superlink(home: Path) -> Iterator[dict[str, str]]:
    """Run a SuperLink for simulations on a free loopback port; yields the environment that reaches it."""
    port = _free_port()
    environment = flower_home(home, Connection(f"127.0.0.1:{port}", insecure=True)) | {"RAY_DEDUP_LOGS": "0"}
    command = [script("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "superlink.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_for_port(process, port)
            yield environment
        finally:
            stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise FederationError(
        f"the SuperLink did not open port {port} in {START_SECONDS:g} s; run flower-superlink by hand"
    )
