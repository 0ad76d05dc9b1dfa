"""Handing the app to a SuperLink by `flwr run`, and watching the run until its end."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from knot_fed.config import RunConfig
from knot_fed.errors import ConfigError, FederationError
from knot_fed.processes import script, stop
from knot_fed.run_log import FAILURE, MARKER, is_routine, read_table_line

COMPONENTS = {
    "fedavg": {"serverapp": "knot_fed.fedavg_app:server_app", "clientapp": "knot_fed.fedavg_app:client_app"},
}
CONNECTION = "knot-fed"
STARTED = re.compile(r"started run (\d+)")
BOX_DRAWING = re.compile(r"[╭╮╰╯│─]+")


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a SuperLink's HTTP API is, and how it is trusted.

    Parameters
    ----------
    address
        `host:port`.
    root_certificates
        PEM file of the authority that signed the SuperLink's certificate; None: those of the system.
    insecure
        Whether there is no TLS.
    federation
        Flower's federation to run in, `@account/name`; empty: the SuperLink's default.
    """

    address: str
    root_certificates: Path | None = None
    insecure: bool = False
    federation: str = ""


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of one run: its number ("0": it never started), its table, and its last lines."""

    number: str
    table: dict[str, Any] | None
    tail: list[str]


@dataclass(frozen=True, slots=True)
class Submitter:
    """The staged app and the environment that reaches a SuperLink; several runs may go on at once."""

    bundle: Path
    home: Path
    environment: dict[str, str]

    def run(
        self, config: RunConfig, settings: str = "", *, echo: Callable[[str], None], verbose: bool = False
    ) -> dict[str, Any]:
        """Run the app and wait for its end.

        Parameters
        ----------
        config
            The run's configuration, with paths of the machine that the server app runs on.
        settings
            Flower's federation settings, as `key=value` pairs; only a SuperLink for simulations has any.
        echo
            Called with each line that the user should see.
        verbose
            Whether Flower's own lines are shown too.

        Returns
        -------
        table
            What `summary_table` prints.

        Raises
        ------
        FederationError
            If the run does not start or does not complete.
        """
        overrides = self.home / f"{config.name}.toml"
        overrides.write_text(tomli_w.dumps(config.to_mapping()), encoding="utf-8")
        command = ["run", str(self.bundle), CONNECTION, "--stream", "--run-config", str(overrides)]
        run = subprocess.Popen(
            [script("flwr"), *command, *(["--federation-config", settings] if settings else [])],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            watched = _watch(run.stdout or (), echo=echo, verbose=verbose)
        finally:
            stop(run)
        if watched.table is None:
            listed = ask_flower(self.environment, "list", CONNECTION, "--format", "json", "--run-id", watched.number)
            check_completed(listed, watched)
            raise FederationError("the run completed but its table was not in the log; read it from the run folder")
        return watched.table


def ask_flower(environment: dict[str, str], *arguments: str) -> str:
    """Return what a `flwr` command says on standard output."""
    return subprocess.run(
        [script("flwr"), *arguments], env=environment, text=True, capture_output=True, check=False
    ).stdout


def flower_home(home: Path, connection: Connection) -> dict[str, str]:
    """Write Flower's configuration of one connection into a private folder; return the environment that reads it."""
    table: dict[str, str | bool] = {"address": connection.address, "insecure": connection.insecure}
    if connection.root_certificates is not None:
        table["root-certificates"] = str(connection.root_certificates.resolve())
    if connection.federation:
        table["federation"] = connection.federation
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {CONNECTION: table}}), encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path}


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


def _watch(lines: Iterable[str], *, echo: Callable[[str], None], verbose: bool) -> Watched:
    """Pass on the lines of knot_fed but for routine events, or all; keep the last twenty, up to the failure if any."""
    number, table, tail = "0", None, list[str]()
    for line in map(str.rstrip, lines):
        started = STARTED.search(line)
        number = started.group(1) if started else number
        place, facts = line.find(MARKER), read_table_line(line)
        if facts is not None:
            table = facts
            continue
        if place >= 0 or not tail or FAILURE not in tail[-1]:
            tail = [*tail[-19:], line]
        if verbose or (place >= 0 and not is_routine(line)):
            echo(line if verbose else line[place:])
    return Watched(number, table, tail)


def check_completed(listed: str, watched: Watched) -> None:
    """Refuse any end but a completed run.

    Parameters
    ----------
    listed
        What `flwr list --format json` says of the run.
    watched
        What was seen of it.

    Raises
    ------
    FederationError
        If the run did not start, goes on unseen, or failed; in one sentence.
    """
    try:
        status = str(json.loads(listed)["runs"][0]["status"])
    except (json.JSONDecodeError, KeyError, IndexError):
        if watched.number != "0":
            raise FederationError(
                f"the SuperLink went away while run {watched.number} was under way; look with knot-fed status"
            ) from None
        said = " ".join(BOX_DRAWING.sub(" ", " ".join(watched.tail)).split())
        raise FederationError(f"the run never started ({said or 'Flower said nothing'}); use --verbose") from None
    if not status.startswith("finished"):
        raise FederationError(f"the run goes on ({status}) but its log broke off; look with knot-fed status")
    if status != "finished:completed":
        reasons = [line.partition(FAILURE)[2] for line in watched.tail if FAILURE in line]
        raise FederationError(reasons[-1] if reasons else f"the run ended as {status}; use --verbose to see why")
