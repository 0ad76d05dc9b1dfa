"""The status of a federation: the nodes and runs of a SuperLink, or the run in one folder."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
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
    """Return the status of the run in a folder.

    Raises
    ------
    RunFolderError
        If the folder is not a run folder or has no log.
    """
    folder = RunFolder.open(path)
    try:
        lines = (folder.path / LOG_FILE).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        raise RunFolderError(f"{path}: no readable {LOG_FILE}; read its tables with knot-fed show") from None
    progress = read_progress(filter(None, map(read_line, lines)))
    return {"nodes": [], "runs": [{"run": folder.path.resolve().name, "status": "", **run_facts(progress)}]}


def superlink_status(connection: Connection) -> dict[str, Any]:
    """Return the nodes of a SuperLink and the progress of its newest runs.

    Raises
    ------
    ConfigError, FederationError
        If the SuperLink cannot be reached or does not answer.
    """
    check_superlink(connection)
    with tempfile.TemporaryDirectory(prefix="knot-fed-") as home:
        environment = flower_home(Path(home), connection)
        nodes = _listed(environment, "nodes", "supernode", "list", CONNECTION)
        listed = _listed(environment, "runs", "list", CONNECTION, "--limit", str(RUNS_SHOWN))
        runs = [_run_status(environment, run) for run in listed]
    names = {traffic["node-id"]: traffic["name"] for run in reversed(runs) for traffic in run["traffic"]}
    return {"nodes": [_node_status(node, names) for node in nodes], "runs": runs}


def ended(progress: Progress, status: str) -> Progress:
    """Overwrite how a run ended by Flower's status; return the progress."""
    if status == "finished:completed":
        progress.phase, progress.failure, progress.seconds_left = "finished", "", 0.0
    elif status.startswith("finished"):
        progress.phase, progress.failure = "failed", progress.failure or unexplained(status, progress.phase)
    if status.startswith("finished"):
        progress.phase_ends = ""
    return progress


def run_facts(progress: Progress) -> dict[str, Any]:
    """Return a run's progress as `--json` prints it."""
    facts = asdict(progress)
    nodes = facts.pop("nodes")
    facts |= {key: sum(node[key] for node in nodes.values()) for key in ("bytes_up", "bytes_down")}
    return {**_dashed(facts), "traffic": [_dashed({"name": name, **node}) for name, node in sorted(nodes.items())]}


def _dashed(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "-"): value for key, value in facts.items()}


def _run_status(environment: dict[str, str], run: dict[str, Any]) -> dict[str, Any]:
    number, status = str(run["run-id"]), str(run["status"])
    has_log = status.startswith(("running", "fin"))
    log = ask_flower(environment, "log", number, CONNECTION, "--show") if has_log else ""
    progress = ended(read_progress(sealed_lines(log.split("\n"))), status)
    listed = {"run": number, "status": status, "elapsed": run["elapsed"], "details": run["status-details"]}
    return {**listed, **run_facts(progress)}


def _node_status(node: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    number, status = str(node["node-id"]), node["status"]
    since = node["online-at" if status == "online" else "offline-at"]
    return {
        "node": number,
        "name": names.get(number, ""),
        "owner": node["owner-name"],
        "status": status,
        "since": since,
    }


def _listed(environment: dict[str, str], key: str, *arguments: str) -> list[dict[str, Any]]:
    try:
        return list(json.loads(ask_flower(environment, *arguments, "--format", "json"))[key])
    except (ValueError, KeyError, TypeError):
        raise FederationError(f"the SuperLink returned no list of {key}; see its log") from None
