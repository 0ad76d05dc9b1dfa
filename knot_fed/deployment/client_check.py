"""Check a client on its own machine before it joins, without starting anything or using the network."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from knot_fed.config import NodeConfig, RunConfig, Scalar
from knot_fed.config.choices import reports_scores, scheme_reads
from knot_fed.data.private import parts_of, read_labelled_texts, seed_key, texts_of
from knot_fed.data.reading.files import read_table, short_name
from knot_fed.data.reading.label_values import read_labels
from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import ConfigError, KnotError, PolicyError
from knot_fed.federation.client.personal import MEASURED
from knot_fed.federation.client.settings import Client, read_policy
from knot_fed.federation.wire import envelope, exchange
from knot_fed.files import check_writable
from knot_fed.models import ONE_LABEL, check_model_name, try_model
from knot_fed.privacy.ledger.ledger import Ledger
from knot_fed.privacy.policy import ReleasePolicy
from knot_fed.privacy.policy_checks import (
    BUDGETS,
    check_epsilon,
    check_evaluations,
    check_limits,
    check_own_metrics,
    check_scheme_may_enter_sum,
    check_soft_labels_may_leave_alone,
    check_student_accepted,
    tightened_settings,
)
from knot_fed.types import Text

LEAST_FREE_BYTES = 200e6
SAMPLE = 20
"""Number of transfer texts on which the model is tried."""
OK, PROBLEM, NOT_CHECKED = "ok", "problem", "not checked"
PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of a check (`ok`, `problem` or `not checked`), and a detail that never quotes a private text."""

    check: str
    outcome: str
    detail: str


def check_client(run: RunConfig, settings: Mapping[str, Scalar]) -> list[CheckResult]:
    """Check a client's `--node-config`, file, model, policy and state folder for one run; report all problems."""
    node, results = _check_settings(settings)
    results.append(_result("policy", lambda: _policy_limits(node)))
    if results[-1].outcome == OK:
        results.append(_result("run under the policy", lambda: _check_run(run, node)))
    if not node.data:
        return [*results, CheckResult("private file", PROBLEM, "data is missing; give the absolute path of the file")]
    client = Client.from_configs(run, node.model_copy(update={"policy": "", "state_dir": node.state_dir or "/"}))
    results += [*_check_file(client), *_check_transfer(client)]
    if not node.state_dir:
        missing = "state-dir is missing; give the absolute path of a folder for teachers and the ledger"
        return [*results, CheckResult("state folder", PROBLEM, missing)]
    results.append(_result("state folder", lambda: _check_state(client.state)))
    results.append(_result("releases so far", lambda: _check_ledger(client, node)))
    return results


def _result(check: str, work: Callable[[], str]) -> CheckResult:
    """Return the detail that `work` returns, or the problem that it raises."""
    try:
        return CheckResult(check, OK, work())
    except KnotError as error:
        return CheckResult(check, PROBLEM, str(error))


def _check_settings(settings: Mapping[str, Scalar]) -> tuple[NodeConfig, list[CheckResult]]:
    """Check each setting separately; return a configuration of the valid ones."""
    valid: dict[str, Scalar] = {}
    results = []
    for key, value in settings.items():
        try:
            NodeConfig.from_mapping({key: value})
            valid[key] = value
        except ConfigError as error:
            results.append(CheckResult("settings", PROBLEM, str(error)))
    if not results:
        results.append(CheckResult("settings", OK, ", ".join(sorted(settings)) or "none"))
    node = NodeConfig.from_mapping(valid)
    return node, [*results, _result("name", lambda: _check_name(node.name))]


def _check_name(name: str) -> str:
    if not name:
        raise ConfigError("the client has no name; set name in its node configuration")
    handshake = exchange.Handshake(envelope.PROTOCOL, labels="", fingerprint="")
    exchange.check_handshake(handshake, replace(handshake, name=name))
    return name


def _policy_limits(node: NodeConfig) -> str:
    limits = read_policy(node.policy).model_dump(by_alias=True)
    return ", ".join(f"{key} = {str(value).lower()}" for key, value in limits.items())


def _check_run(run: RunConfig, node: NodeConfig) -> str:
    """Check that the policy does not refuse what the run asks for, and say what it would withhold."""
    policy = read_policy(node.policy)
    if run.privacy.secure_sum:
        check_scheme_may_enter_sum(run.weights.scheme, policy=policy)
    else:
        check_soft_labels_may_leave_alone(policy)
    if run.rounds_differ:
        check_student_accepted(policy)
    tightened_settings(run.privacy, policy)
    if not run.privacy.facts.has_guarantee:
        for limit in BUDGETS:
            check_epsilon((), (None,), policy=policy, limit=limit)
    _, evaluated = Ledger(Path(node.state_dir)).evaluated("") if node.state_dir else (0.0, 0.0)
    withheld = {
        "scores for each text": reports_scores(run.weights.scheme) and not policy.share_confidences,
        "the number of examples": scheme_reads(run.weights.scheme) == "examples" and not policy.share_example_counts,
        "a personal model": run.personal.consensus != "none" and not policy.accept_consensus,
        **_withheld_metrics(run, policy, before=evaluated),
    }
    names = [name for name, is_withheld in withheld.items() if is_withheld]
    return f"not given: {', '.join(names)}" if names else "nothing that the run asks for is refused"


def _withheld_metrics(run: RunConfig, policy: ReleasePolicy, *, before: float) -> dict[str, bool]:
    """Say which metrics are refused, given the evaluations of earlier runs.

    A student is measured before the first round and after each, and personal models after the last. Whether the test
    split is too small for any is known only once the run has split the file.
    """
    students, guaranteed = run.rounds + 1, run.privacy.facts.has_guarantee

    def check_students(count: int) -> None:
        check_evaluations(0.0, before, policy=policy, models=count)

    def check_personal() -> None:
        check_own_metrics(guaranteed=guaranteed, policy=policy)
        check_evaluations(float(students), before + students, policy=policy, models=MEASURED)

    given = next((count for count in range(students, 0, -1) if not _refused(partial(check_students, count))), 0)
    told = f"metrics of more than {given} of the {students} students" if given else "metrics of any student"
    return {
        told: given < students,
        "metrics of the personal model": run.personal.consensus != "none" and _refused(check_personal),
    }


def _refused(check: Callable[[], None]) -> bool:
    try:
        check()
    except PolicyError:
        return True
    return False


def _check_file(client: Client) -> list[CheckResult]:
    """Check each column separately, so that one problem does not hide another, and then the whole file."""
    file, columns, labels = client.files[0], client.columns(), client.run.label_space()
    name, wanted = short_name(file), {*columns.of_text, columns.label, columns.split}
    try:
        table = read_table(file, wanted, dialect=columns.dialect, split=columns.split)
    except KnotError as error:
        return [CheckResult("private file", PROBLEM, str(error))]

    def count_labels() -> str:
        indices, note = read_labels(table, columns.label, labels, name=name)
        counts = Counter(indices.tolist())
        counted = ", ".join(f"{label} {counts[index]}" for index, label in enumerate(labels.names))
        return f"{counted}; {note}" if note else counted

    def count_splits() -> str:
        counts = Counter(parts_of(table.columns.get(columns.split), len(table), name=name, column=columns.split))
        return ", ".join(f"{part} {counts[part]}" for part in PARTS if counts[part])

    known = ", ".join(sorted(table.columns)) or "no known column"
    results = [
        CheckResult("private file", OK, f"{name}: {table.layout or f'{len(table)} rows'}; columns {known}"),
        _result("texts", lambda: f"{len(texts_of(table, columns, name=name))} texts"),
        _result("labels", count_labels),
        _result("splits in the file", count_splits),
    ]
    if all(result.outcome == OK for result in results):
        results.append(_result("examples", lambda: _count_examples(client)))
    return results


def _count_examples(client: Client) -> str:
    """Split the file with another key than the state folder's secret, which a check must not create."""
    key, labels = seed_key(0), client.run.label_space()
    examples = read_labelled_texts(client.files[0], columns=client.columns(), labels=labels, key=key)
    classes = len(np.unique(examples.train.labels))
    counts = ", ".join(f"{part} {len(getattr(examples, part))}" for part in PARTS)
    return f"about {counts}; " + (f"{classes} classes to train on" if classes > 1 else ONE_LABEL)


def _check_transfer(client: Client) -> list[CheckResult]:
    """Check the client's copy of the transfer set, and the model that reads it."""
    try:
        transfer = client.transfer_set()
    except KnotError as error:
        return [CheckResult("transfer set", PROBLEM, str(error)), CheckResult("model", NOT_CHECKED, client.model)]
    if transfer is None:
        result = CheckResult("transfer set", OK, "no local copy; the server sends the texts")
        return [result, _check_model(client, TransferSet((_sample(client),)), ())]
    result = CheckResult("transfer set", OK, f"{len(transfer)} texts, fingerprint {transfer.fingerprint[:12]}")
    return [result, _check_model(client, transfer, transfer.texts[:SAMPLE])]


def _sample(client: Client) -> Text:
    """Return a single text or a pair, whichever the private file holds."""
    columns = client.columns()
    paired = bool(columns.separator)
    try:
        table = read_table(client.files[0], set(columns.of_text), dialect=columns.dialect)
        paired = paired or columns.text not in table.columns
    except KnotError:
        pass
    return ("a", "b") if paired else "a"


def _check_model(client: Client, transfer: TransferSet, texts: tuple[Text, ...]) -> CheckResult:
    try:
        check_model_name(client.model)
        trial = try_model(client.spec(transfer), texts)
    except KnotError as error:
        return CheckResult("model", PROBLEM, str(error))
    if trial is None:
        return CheckResult("model", NOT_CHECKED, f"{client.model}: a hub id is requested over the network at first use")
    tried = f"{client.model}: tried, {trial.parameters / 1e6:.1f} million parameters to train"
    return CheckResult("model", OK, "; ".join([tried, *trial.notes]))


def _check_state(folder: Path) -> str:
    """Check that the folder is writable or can be created, and that its disk has room."""
    check_writable(folder, key="state-dir")
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < LEAST_FREE_BYTES:
        raise ConfigError(f"the state folder has {free / 1e6:.0f} MB free, expected 200; make room")
    state = "will be created"
    if folder.exists():
        state = "exists, but open to other users: chmod 700" if _open(folder) else "exists"
    return f"{state}, writable, {free / 1e9:.1f} GB free"


def _open(folder: Path) -> bool:
    """Return whether others may enter a folder of this user; a container's volume belongs to another user."""
    found = folder.stat()
    return found.st_uid == os.geteuid() and bool(found.st_mode & 0o077)


def _check_ledger(client: Client, node: NodeConfig) -> str:
    """Check that the policy would allow one more run over the client's transfer set."""
    policy, transfer, run = read_policy(node.policy), client.transfer_set(), client.run
    before = Ledger(client.state).released_in_life()
    asked = len(transfer) * run.rounds // run.slices if transfer else 0  # a text asked again counts again
    check_limits(asked, policy=policy, released_in_run=0.0, released_in_life=before)
    return f"{before:.0f} texts answered so far" + (f", {asked} more allowed" if asked else "")
