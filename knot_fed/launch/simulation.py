"""A private SuperLink for virtual clients, on this machine or on a Ray cluster."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import cpu_count
from pathlib import Path
from typing import Any

from knot_fed.errors import ConfigError, FederationError, shown
from knot_fed.launch.bundle import stage_app
from knot_fed.launch.cluster import RAY_ADDRESS
from knot_fed.launch.submission import Connection, Submitter, flower_home
from knot_fed.system.machine import LONGEST_SOCKET, socket_folder, usable_cpus, visible_gpus
from knot_fed.system.processes import private_folder, script, stop

START_SECONDS = 60.0
MOST_RESOURCES = 100_000
KINDS: dict[str, dict[str, tuple[Any, float]]] = {
    "client_resources": {"num_cpus": (int, 1), "num_gpus": (float | int, 0)},
    "init_args": {"num_cpus": (int, 1), "num_gpus": (int, 0), "logging_level": (str, 0), "log_to_driver": (bool, 0)},
}
"""The settings that Flower reads, each with its type and lowest value."""
SOCKET = "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1"
"""Ray's longest socket path below its temporary folder."""


@contextmanager
def simulator(app: Path | None, *, strategy: str = "knot", ray_address: str = "") -> Iterator[Submitter]:
    """Start a private SuperLink for an app; stop it and all its child processes, however this process ends.

    Parameters
    ----------
    app
        The app's folder; None: the installed app.
    strategy
        `knot`: the app's own components; `fedavg`: the baseline's.
    ray_address
        `HOST:PORT` of the Ray cluster that runs the clients; empty: this machine.

    Raises
    ------
    ConfigError
        If the app has no `fab-include`.
    FederationError
        If the SuperLink does not start.
    """
    with private_folder() as home:
        bundle = stage_app(app, home / "app", strategy=strategy)
        with superlink(home, ray_address=ray_address) as environment:
            yield Submitter(bundle, home, environment)


def federation_settings(backend_config: str, *, num_supernodes: int, ray_address: str = "") -> str:
    """Translate the JSON of `--backend-config` into Flower's federation settings.

    Raises
    ------
    ConfigError
        If the text is not a JSON object, has an unknown key or a value of the wrong type, asks for more CPUs or GPUs
        than this machine has, or for resources of a cluster that has its own.
    """
    try:
        parsed = json.loads(backend_config)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--backend-config is not JSON ({error}); quote it in single quotes") from None
    if not isinstance(parsed, dict) or not all(isinstance(value, dict) for value in parsed.values()):
        raise ConfigError(
            '--backend-config is not an object of objects; write \'{"client_resources": {"num_cpus": 1}}\''
        )
    parsed.setdefault("client_resources", {}).setdefault("num_cpus", 1)
    settings: dict[str, object] = {"num-supernodes": num_supernodes}
    for section, values in parsed.items():
        if section not in KINDS:
            raise ConfigError(f"--backend-config: unknown key {shown(section)}; known: {', '.join(KINDS)}")
        for key, value in values.items():
            _check_setting(section, key, value)
            settings[f"{section}-{key}".replace("_", "-")] = value
    if ray_address:
        _check_for_cluster(parsed.get("init_args", {}))
    else:
        _check_resources(parsed["client_resources"], parsed.get("init_args", {}))
    return " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


def _check_setting(section: str, key: str, value: object) -> None:
    """Refuse early what Flower or Ray would refuse after their start."""
    if key not in KINDS[section]:
        known = ", ".join(KINDS[section])
        raise ConfigError(f"--backend-config: unknown key {shown(key)} in {section}; known: {known}")
    wanted, least = KINDS[section][key]
    if isinstance(value, bool) != (wanted is bool) or not isinstance(value, wanted):
        kind = {int: "a whole number", float | int: "a number", bool: "true or false", str: "a string"}[wanted]
        raise ConfigError(f"--backend-config: {section}.{key} = {shown(value)} is not {kind}; write {kind}")
    if isinstance(value, int | float) and not least <= value < MOST_RESOURCES:
        raise ConfigError(
            f"--backend-config: {section}.{key} = {shown(value)} is out of range; use {least} to {MOST_RESOURCES}"
        )


def _check_for_cluster(init_args: dict[str, Any]) -> None:
    """Refuse what Ray refuses when it connects to a cluster."""
    given = sorted(f"init_args.{key}" for key in ("num_cpus", "num_gpus") if key in init_args)
    if given:
        raise ConfigError(
            f"--backend-config: {' and '.join(given)} cannot be set with --ray-address, since the cluster's nodes have"
            " declared their CPUs and GPUs; leave it out"
        )


def _check_resources(client: dict[str, Any], machine: dict[str, Any]) -> None:
    """Refuse clients that need more CPUs or GPUs than this machine has."""
    gpus = client.get("num_gpus", 0)
    if gpus > 1 and gpus != int(gpus):
        raise ConfigError(
            f"--backend-config: client_resources.num_gpus = {gpus:g} is neither a share of one GPU nor a whole number;"
            " use 1 or less, or a whole number"
        )
    cpus = machine.get("num_cpus", max(usable_cpus(), cpu_count() or 1))
    for key, asked, there, unit in (
        ("client_resources.num_cpus", client["num_cpus"], cpus, "CPU(s)"),
        ("client_resources.num_gpus", gpus, machine.get("num_gpus", visible_gpus() if gpus else 0), "GPU(s)"),
        ("init_args.num_gpus", machine.get("num_gpus", 0), visible_gpus() if machine.get("num_gpus") else 0, "GPU(s)"),
    ):
        if asked > there:
            advice = f"use {there} at most" if there else "leave it out"
            raise ConfigError(f"--backend-config: {key} = {asked:g}, but this machine has {there} {unit}; {advice}")


@contextmanager
def superlink(home: Path, *, ray_address: str = "") -> Iterator[dict[str, str]]:
    """Run a SuperLink for simulations on a free loopback port; yields the environment that reaches it."""
    port = _free_port()
    environment = flower_home(home, Connection(f"127.0.0.1:{port}", insecure=True))
    # A client without a share of a GPU must see none, whatever a later Ray does by default.
    environment |= {"RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
    environment.pop(RAY_ADDRESS, None)
    environment |= {RAY_ADDRESS: ray_address} if ray_address else {"RAY_TMPDIR": _ray_folder(environment)}
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


def _ray_folder(environment: Mapping[str, str]) -> str:
    """Choose Ray's folder: the user's temporary folder if its socket paths stay short enough.

    Raises
    ------
    ConfigError
        If no folder is suitable.
    """
    folder = socket_folder(environment, below=SOCKET)
    if folder is None:
        raise ConfigError(
            f"no folder for Ray's sockets: paths below TMPDIR are longer than {LONGEST_SOCKET} bytes, and /tmp is not"
            " writable; set RAY_TMPDIR to a short folder"
        )
    return folder


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
