"""Submits the app to a SuperLink with `flwr run`, and watches the run until its end."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from knot_fed.config import RunConfig
from knot_fed.launch.watching import Watched, check_completed, watch
from knot_fed.system.processes import script, stop

CONNECTION = "knot-fed"
UNPROXIED, LOOPBACK = ("no_proxy", "NO_PROXY"), ("127.0.0.1", "localhost", "::1")
"""Variables that list hosts reached without a proxy, and the hosts that are always added."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A SuperLink's HTTP API.

    Parameters
    ----------
    address
        `host:port`.
    root_certificates
        PEM file of the authority that signed the SuperLink's certificate; None: the system's authorities.
    insecure
        Whether to connect without TLS.
    federation
        Flower federation, `@account/name`; empty: the SuperLink's default.
    """

    address: str
    root_certificates: Path | None = None
    insecure: bool = False
    federation: str = ""


@dataclass(frozen=True, slots=True)
class Submitter:
    """The staged app and the environment to reach a SuperLink; runs may be concurrent."""

    bundle: Path
    home: Path
    environment: dict[str, str]

    def run(
        self, config: RunConfig, settings: str = "", *, echo: Callable[[str], None], verbose: bool = False
    ) -> dict[str, Any] | None:
        """Run the app and wait for its end.

        Parameters
        ----------
        config
            The run's configuration, with paths on the server app's machine.
        settings
            Flower's federation settings as `key=value` pairs, for simulations only.
        echo
            Called with each line to show.
        verbose
            Whether to show Flower's lines too.

        Returns
        -------
        table
            Input of `summary_table`, as the server app logged it; None if the log of a completed run lacks it.

        Raises
        ------
        FederationError
            If the run does not start or complete.
        """
        overrides = self.home / f"{config.name}.toml"
        overrides.write_text(tomli_w.dumps(config.to_mapping()), encoding="utf-8")
        command = ["run", str(self.bundle), CONNECTION, "--stream", "--run-config", str(overrides)]
        with subprocess.Popen(
            [script("flwr"), *command, *(["--federation-config", settings] if settings else [])],
            env=self.environment,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as run:
            try:
                watched = watch(run.stdout or (), echo=echo, verbose=verbose)
            finally:
                stop(run)
        if watched.number != "0" and watched.table is None and not watched.failure:
            watched = self._kept(watched)
        if watched.table is not None and not watched.failure:
            return watched.table
        listed = ask_flower(self.environment, "list", CONNECTION, "--format", "json", "--run-id", watched.number)
        check_completed(listed, watched)
        return watched.table

    def _kept(self, watched: Watched) -> Watched:
        """Read the run's whole log from the SuperLink; the stream may miss the last lines."""
        log = ask_flower(self.environment, "log", watched.number, CONNECTION, "--show")
        kept = watch(log.split("\n"), echo=lambda _: None)
        return replace(kept, number=watched.number, tail=watched.tail)


def ask_flower(environment: dict[str, str], *arguments: str) -> str:
    """Return the standard output of a `flwr` command."""
    return subprocess.run(
        [script("flwr"), *arguments],
        env=environment,
        encoding="utf-8",
        errors="replace",
        capture_output=True,
        check=False,
    ).stdout


def flower_home(home: Path, connection: Connection) -> dict[str, str]:
    """Write Flower's configuration of one connection into a private folder; return the environment that uses it.

    Processes on this machine connect without a proxy and write UTF-8, whatever the terminal's encoding.
    """
    table: dict[str, str | bool] = {"address": connection.address, "insecure": connection.insecure}
    if connection.root_certificates is not None:
        table["root-certificates"] = str(connection.root_certificates.resolve())
    if connection.federation:
        table["federation"] = connection.federation
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {CONNECTION: table}}), encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path}
    direct = ",".join(dict.fromkeys(filter(None, [*map(os.environ.get, UNPROXIED), *LOOPBACK])))
    return {**environment, **dict.fromkeys(UNPROXIED, direct), "PYTHONIOENCODING": "utf-8"}
