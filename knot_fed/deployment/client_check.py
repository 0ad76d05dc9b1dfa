"""What would stop a client, found on its own machine before it joins: nothing is started and no network is used."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from knot_fed.config import NodeConfig, RunConfig, Scalar
from knot_fed.data.private import parts_of, read_labelled_texts, seed_key, texts_of
from knot_fed.data.reading.files import read_table, short_name
from knot_fed.data.reading.label_values import read_labels
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import ConfigError, KnotError
from knot_fed.federation.client.settings import Client, read_policy
from knot_fed.federation.wire import envelope, exchange
from knot_fed.models import ONE_LABEL, check_model_name, try_model
from knot_fed.privacy.ledger.ledger import Ledger
from knot_fed.privacy.policy import ReleasePolicy
from knot_fed.privacy.policy_checks import check_limits
from knot_fed.types import Text

LEAST_FREE_BYTES = 200e6
SAMPLE = 20
"""Transfer texts that the model is tried on."""
OK, PROBLEM, NOT_CHECKED = "ok", "problem", "not checked"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check, its outcome, and a detail with counts and never a text.

    The outcome is `ok`, `problem`, or `not checked` where an earlier problem or the network stands before it.
    """

    check: str
    outcome: str
    detail: str


def check_client(run: RunConfig, settings: Mapping[str, Scalar]) -> list[CheckResult]:
    """Check a client's settings, file, model, policy and state folder for one kind of run.

    Parameters
    ----------
    run
        The run's configuration, as it will be submitted.
    settings
        What `--node-config` will say.

    Returns
    -------
    findings
        One for each check; all problems are found, not only the first.
    """
    node, findings = _check_settings(settings)
    findings.append(_finding("policy", lambda: _told(read_policy(node.policy))))
    if not node.data:
        return [*findings, CheckResult("private file", PROBLEM, "data is missing; give the absolute path of the file")]
    client = Client.from_configs(run, node.model_copy(update={"policy": "", "state_dir": node.state_dir or "/"}))
    findings += _check_file(client)
    findings += _check_transfer(client)
    if not node.state_dir:
        missing = "state-dir is missing; give the absolute path of a folder that keeps teachers and the ledger"
        return [*findings, CheckResult("state folder", PROBLEM, missing)]
    findings.append(_finding("state folder", lambda: _check_state(client.state)))
    findings.append(_finding("releases so far", lambda: _check_ledger(client, node)))
    return findings


def _finding(check: str, work: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(check, OK, work())
    except KnotError as error:
        return CheckResult(check, PROBLEM, str(error))


def _check_settings(settings: Mapping[str, Scalar]) -> tuple[NodeConfig, list[CheckResult]]:
    """Check each key on its own, and go on with those that are right."""
    right: dict[str, Scalar] = {}
    findings = []
    for key, value in settings.items():
        try:
            NodeConfig.from_mapping({key: value})
        except ConfigError as error:
            findings.append(CheckResult("settings", PROBLEM, str(error)))
        else:
            right[key] = value
    if not findings:
        findings.append(CheckResult("settings", OK, ", ".join(sorted(settings)) or "none"))
    node = NodeConfig.from_mapping(right)
    return node, [*findings, _finding("name", lambda: _check_name(node.name))]


def _check_name(name: str) -> str:
    if not name:
        raise ConfigError("the client has no name; set name in its node configuration")
    anybody = exchange.Handshake(envelope.PROTOCOL, labels="", fingerprint="")
    exchange.check_handshake(anybody, replace(anybody, name=name))
    return name


def _told(policy: ReleasePolicy) -> str:
    return ", ".join(f"{key} = {str(value).lower()}" for key, value in policy.model_dump(by_alias=True).items())


def _check_file(client: Client) -> list[CheckResult]:
    """Check the file by column, so that one problem does not hide another, and then as a whole."""
    columns, labels, name = client.columns(), client.run.label_space(), short_name(client.files[0])
    try:
        table = read_table(
            client.files[0],
            {*columns.of_text, columns.label, columns.split},
            dialect=columns.dialect,
            split=columns.split,
        )
    except KnotError as error:
        return [CheckResult("private file", PROBLEM, str(error))]

    def of_labels() -> str:
        indices, how = read_labels(table, columns.label, labels, name=name)
        counts = Counter(indices.tolist())
        counted = ", ".join(f"{label} {counts[index]}" for index, label in enumerate(labels.names))
        return f"{counted}; {how}" if how else counted

    def of_splits() -> str:
        counts = Counter(parts_of(table.columns.get(columns.split), len(table), name=name, column=columns.split))
        return ", ".join(f"{part} {counts[part]}" for part in ("train", "val", "test") if counts[part])

    known = ", ".join(sorted(table.columns)) or "no known column"
    rows = table.layout or f"{len(table)} rows"
    findings = [
        CheckResult("private file", OK, f"{name}: {rows}; columns {known}"),
        _finding("texts", lambda: f"{len(texts_of(table, columns, name=name))} texts"),
        _finding("labels", of_labels),
        _finding("splits in the file", of_splits),
    ]
    if all(finding.outcome == OK for finding in findings):
        findings.append(_finding("examples", lambda: _examples(client)))
    return findings


def _examples(client: Client) -> str:
    """Split the file as the state folder's secret will, but by another key, since nothing is written here."""
    examples = read_labelled_texts(
        client.files[0], columns=client.columns(), labels=client.run.label_space(), key=seed_key(0)
    )
    classes = len(np.unique(examples.train.labels))
    counts = ", ".join(f"{part} {len(getattr(examples, part))}" for part in ("train", "val", "test"))
    return f"about {counts}; " + (f"{classes} classes to train on" if classes > 1 else ONE_LABEL)


def _check_transfer(client: Client) -> list[CheckResult]:
    """Check the own copy of the transfer set, and the model that will read it."""
    try:
        transfer = client.transfer_set()
    except KnotError as error:
        return [CheckResult("transfer set", PROBLEM, str(error)), CheckResult("model", NOT_CHECKED, client.model)]
    if transfer is None:
        held = CheckResult("transfer set", OK, "no own copy; the server sends the texts")
        return [held, _check_model(client, TransferSet(tuple(_sample(client))), ())]
    held = CheckResult("transfer set", OK, f"{len(transfer)} texts, fingerprint {transfer.fingerprint[:12]}")
    return [held, _check_model(client, transfer, transfer.texts[:SAMPLE])]


def _sample(client: Client) -> list[str | tuple[str, str]]:
    """Return one text of the kind that the private file holds, which decides between single texts and pairs."""
    columns = client.columns()
    paired = bool(columns.separator)
    try:
        table = read_table(client.files[0], set(columns.of_text), dialect=columns.dialect)
        paired = paired or columns.text not in table.columns
    except KnotError:
        pass
    return [("a", "b")] if paired else ["a"]


def _check_model(client: Client, transfer: TransferSet, read: tuple[Text, ...]) -> CheckResult:
    try:
        check_model_name(client.model)
        trial = try_model(client.spec(transfer), read)
    except KnotError as error:
        return CheckResult("model", PROBLEM, str(error))
    if trial is None:
        return CheckResult("model", NOT_CHECKED, f"{client.model}: a hub id is asked over the network at its first use")
    tried = f"{client.model}: tried, {trial.parameters / 1e6:.1f} million parameters to train"
    return CheckResult("model", OK, "; ".join([tried, *trial.notes]))


def _check_state(folder: Path) -> str:
    """Write and remove a file, where the folder is there; or else ask whether it could be made."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not _writable(place, whole=place == folder):
        raise ConfigError("the state folder cannot be written; give it to the user that runs the client")
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE_BYTES:
        raise ConfigError(f"the state folder has {free / 1e6:.0f} MB free, expected 200; make room")
    state = (
        "to be made" if place != folder else "there, but open to other users: chmod 700" if _open(folder) else "there"
    )
    return f"{state}, writable, {free / 1e9:.1f} GB free"


def _open(folder: Path) -> bool:
    """Tell whether others may enter a folder that its owner can close; a container's volume belongs to another user."""
    found = folder.stat()
    return found.st_uid == os.geteuid() and bool(found.st_mode & 0o077)


def _writable(place: Path, *, whole: bool) -> bool:
    """Ask for the right to write, and where the folder itself is there, write."""
    try:
        if whole:
            tempfile.TemporaryFile(dir=place).close()
    except OSError:
        return False
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _check_ledger(client: Client, node: NodeConfig) -> str:
    """Ask the policy whether one more run over the own transfer set would be answered."""
    policy, transfer = read_policy(node.policy), client.transfer_set()
    before = Ledger(client.state).released_in_life()
    asked = len(transfer) if transfer else 0
    check_limits(asked, policy=policy, released_in_run=0.0, released_in_life=before)
    return f"{before:.0f} texts answered in life" + (f", {asked} more allowed" if asked else "")
