"""A federation as it is now: nodes and runs of a deployed SuperLink, or one run's folder."""

import json
import tempfile
from pathlib import Path
from typing import Any

from knot_fed.deployment.progress import Progress, read_progress
from knot_fed.deployment.superlink import check_superlink
from knot_fed.errors import FederationError, RunFolderError
from knot_fed.launch.submission import CONNECTION, Connection, ask_flower, flower_home
from knot_fed.launch.watching import unexplained
from knot_fed.runs.log import LOG_FILE, read_line, sealed_lines
from knot_fed.runs.run_folder import RunFolder

RUNS_SHOWN = 10


def folder_status(path: Path) -> dict[str, Any]:
    """Return the status of one run of this machine.

    Raises
    ------
    RunFolderError
        If there is no run folder, or it has no log.
    """
    folder = RunFolder.open(path)
    try:
        lines = (folder.path / LOG_FILE).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        raise RunFolderError(f"{path}: no readable {LOG_FILE}; read its tables with knot-fed show") from None
    progress = read_progress(filter(None, map(read_line, lines)))
    return {"nodes": [], "runs": [{"run": folder.path.resolve().name, "status": "", **run_facts(progress)}]}


def superlink_status(connection: Connection) -> dict[str, Any]:
    """Return the status of a deployed SuperLink: its nodes, and its newest runs with how far each is.

    Raises
    ------
    ConfigError, FederationError
        If the SuperLink cannot be reached or does not answer.
    """
    check_superlink(connection)
    with tempfile.TemporaryDirectory(prefix="knot-fed-") as home:
        environment = flower_home(Path(home), connection)
        nodes = _listed(ask_flower(environment, "supernode", "list", CONNECTION, "--format", "json"), "nodes")
        limit = ["--limit", str(RUNS_SHOWN)]
        listed = _listed(ask_flower(environment, "list", CONNECTION, "--format", "json", *limit), "runs")
        runs = [_run_status(environment, run) for run in listed]
    names = {traffic["node-id"]: traffic["name"] for run in reversed(runs) for traffic in run["traffic"]}
    return {"nodes": [_node_status(node, names) for node in nodes], "runs": runs}


def _run_status(environment: dict[str, str], run: dict[str, Any]) -> dict[str, Any]:
    number, status = str(run["run-id"]), str(run["status"])
    said = ask_flower(environment, "log", number, CONNECTION, "--show") if status.startswith(("running", "fin")) else ""
    progress = ended(read_progress(sealed_lines(said.split("\n"))), status)
    told = {"run": number, "status": status, "elapsed": run["elapsed"], "details": run["status-details"]}
    return {**told, **run_facts(progress)}


def ended(progress: Progress, status: str) -> Progress:
    """Let Flower's status have the last word on how a run has ended; return the progress."""
    if status == "finished:completed":
        progress.phase, progress.failure, progress.seconds_left = "finished", "", 0.0
    elif status.startswith("finished"):
        progress.phase, progress.failure = "failed", progress.failure or unexplained(status, progress.phase)
    if status.startswith("finished"):
        progress.phase_ends = ""
    return progress


def run_facts(progress: Progress) -> dict[str, Any]:
    """Return a run's progress as `--json` prints it."""
    traffic = [
        {
            "name": name, "node-id": node.node_id, "bytes-up": node.bytes_up, "bytes-down": node.bytes_down,
            "last": node.last, "outcome": node.outcome,
        }
        for name, node in sorted(progress.nodes.items())
    ]  # fmt: skip
    return {
        "phase": progress.phase,
        "round": progress.round,
        "rounds": progress.rounds,
        "seconds-left": progress.seconds_left,
        "phase-ends": progress.phase_ends,
        "failure": progress.failure,
        "bytes-up": sum(node.bytes_up for node in progress.nodes.values()),
        "bytes-down": sum(node.bytes_down for node in progress.nodes.values()),
        "traffic": traffic,
    }


def _node_status(node: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    number = str(node["node-id"])
    online = node["status"] == "online"
    return {
        "node": number,
        "name": names.get(number, ""),
        "owner": node["owner-name"],
        "status": node["status"],
        "since": node["online-at"] if online else node["offline-at"],
    }


def _listed(said: str, key: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(said)[key]
    except (ValueError, KeyError, TypeError):
        raise FederationError(f"the SuperLink gave no list of {key}; look at its log") from None
    return list(found)
