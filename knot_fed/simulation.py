"""Runs on a private SuperLink of this machine: started, watched and stopped, with nothing left behind."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from knot_fed.config import RunConfig
from knot_fed.errors import ConfigError, FederationError

COMPONENTS = {
    "fedavg": {"serverapp": "knot_fed.fedavg_app:server_app", "clientapp": "knot_fed.fedavg_app:client_app"},
}
CONNECTION = "knot-fed"
START_SECONDS = 60.0
STOP_SECONDS = 20.0
MARKER = "knot_fed: "
FAILURE = "the run failed: "
STARTED = re.compile(r"started run (\d+)")
BOX_DRAWING = re.compile(r"[╭╮╰╯│─]+")


@dataclass(frozen=True, slots=True)
class Simulator:
    """A private SuperLink for simulations, with the app staged; several runs may go on at once."""

    bundle: Path
    home: Path
    environment: dict[str, str]

    def run(self, config: RunConfig, settings: str, *, echo: Callable[[str], None], verbose: bool = False) -> None:
        """Run the app and wait for its end.

        Parameters
        ----------
        config
            The run's configuration, with absolute paths.
        settings
            Flower's federation settings, as `key=value` pairs.
        echo
            Called with each line that the user should see.
        verbose
            Whether Flower's own lines are shown too.

        Raises
        ------
        FederationError
            If the run does not start or does not complete.
        """
        overrides = self.home / f"{config.name}.toml"
        overrides.write_text(tomli_w.dumps(config.to_mapping()), encoding="utf-8")
        command = ["run", str(self.bundle), CONNECTION, "--stream", "--run-config", str(overrides)]
        run = subprocess.Popen(
            [_script("flwr"), *command, "--federation-config", settings],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            number, tail = _relay(run, echo=echo, verbose=verbose)
        finally:
            _stop(run)
        listed = subprocess.run(
            [_script("flwr"), "list", CONNECTION, "--format", "json", "--run-id", number],
            env=self.environment, text=True, capture_output=True, check=False,
        )  # fmt: skip
        _check_completed(listed.stdout, tail)


@contextmanager
def simulator(app: Path, *, strategy: str = "knot") -> Iterator[Simulator]:
    """Start a private SuperLink for an app, and stop it with all that it started, also on a SIGTERM.

    Parameters
    ----------
    app
        Folder of the app's `pyproject.toml`.
    strategy
        `knot`: the app's own components; `fedavg`: the reference line's.

    Raises
    ------
    ConfigError
        If the app does not say which files belong to it.
    FederationError
        If the SuperLink does not start.
    """
    with _sigterm_as_exit(), tempfile.TemporaryDirectory(prefix="knot-fed-") as home:
        bundle = stage_app(app, Path(home) / "app", components=COMPONENTS.get(strategy))
        with superlink(Path(home)) as environment:
            yield Simulator(bundle, Path(home), environment)


def stage_app(app: Path, folder: Path, *, components: dict[str, str] | None = None) -> Path:
    """Copy the app's configuration and the files that its `fab-include` names, and return the copy.

    Flower walks the whole folder before it looks at `fab-include`, and refuses to go on where a virtual environment
    or a data folder in it is nested deeply; the copy holds nothing else.

    Parameters
    ----------
    app, folder
        The app's folder, and where the copy goes.
    components
        Server app and client app to declare in the copy; None: those that the app declares.

    Raises
    ------
    ConfigError
        If there is no `pyproject.toml` with a `fab-include`.
    """
    try:
        project = tomllib.loads((app / "pyproject.toml").read_text(encoding="utf-8"))
        patterns = [str(pattern).lstrip("/") for pattern in project["tool"]["flwr"]["app"]["fab-include"]]
    except (OSError, KeyError, ValueError):
        raise ConfigError(f"{app / 'pyproject.toml'}: no fab-include; give --app the project's folder") from None
    for file in [app / "pyproject.toml", *(path for pattern in patterns for path in sorted(app.glob(pattern)))]:
        copy = folder / file.relative_to(app)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    if components is not None:
        project["tool"]["flwr"]["app"]["components"] = components
        (folder / "pyproject.toml").write_text(tomli_w.dumps(project), encoding="utf-8")
    return folder


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
    address = f"127.0.0.1:{port}"
    (home / "config.toml").write_text(f'[superlink.{CONNECTION}]\naddress = "{address}"\ninsecure = true\n')
    environment = {**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [_script("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
    command += ["--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "superlink.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_for_port(process, port)
            yield environment
        finally:
            _stop(process)


def _relay(run: subprocess.Popen[str], *, echo: Callable[[str], None], verbose: bool) -> tuple[str, list[str]]:
    """Pass on the lines that are knot_fed's own, or all.

    Returns the run's number, and the last twenty lines, up to the failure if there is one.
    """
    number, tail = "0", list[str]()
    for line in map(str.rstrip, run.stdout or ()):
        started = STARTED.search(line)
        number = started.group(1) if started else number
        place = line.find(MARKER)
        if place >= 0 or not tail or FAILURE not in tail[-1]:
            tail = [*tail[-19:], line]
        if verbose or place >= 0:
            echo(line if verbose else line[place:])
    return number, tail


def _check_completed(listed: str, tail: list[str]) -> None:
    try:
        status = json.loads(listed)["runs"][0]["status"]
    except (json.JSONDecodeError, KeyError, IndexError):
        said = " ".join(BOX_DRAWING.sub(" ", " ".join(tail)).split())
        raise FederationError(f"the run never started ({said or 'Flower said nothing'}); use --verbose") from None
    if status != "finished:completed":
        reasons = [line.partition(FAILURE)[2] for line in tail if FAILURE in line]
        raise FederationError(reasons[-1] if reasons else f"the run ended as {status}; use --verbose to see why")


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let a SIGTERM unwind the stack, so that the SuperLink is stopped and the private folder removed."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop_children() -> None:
    """Stop all that this process has started."""
    _stop_all(psutil.Process().children(recursive=True))


def _stop(process: subprocess.Popen[Any]) -> None:
    """Stop a process and all that it started; the SuperLink of a run cut short would leave Ray's behind."""
    try:
        parent = psutil.Process(process.pid)
        _stop_all([parent, *parent.children(recursive=True)])
    except psutil.NoSuchProcess:
        pass
    process.wait()


def _stop_all(family: list[psutil.Process]) -> None:
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    for member in psutil.wait_procs(family, timeout=STOP_SECONDS)[1]:
        with suppress(psutil.NoSuchProcess):
            member.kill()


def _script(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


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
