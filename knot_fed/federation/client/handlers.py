"""Handlers of every client app: the handshake, and the student's metrics on the private test split."""

import logging
from functools import partial
from pathlib import Path

from flwr.app import Context, Message

from knot_fed.data.private import ignore_note
from knot_fed.errors import WireError
from knot_fed.federation.client.guard import guard_handler
from knot_fed.federation.client.held_texts import hold_texts
from knot_fed.federation.client.settings import Client
from knot_fed.federation.wire import envelope, exchange, student_wire
from knot_fed.models import use_device, use_threads
from knot_fed.privacy.ledger.entry import LedgerEntry
from knot_fed.privacy.policy_checks import check_evaluations, check_test_size, rounded_metrics
from knot_fed.runs.run_folder import RunFolder
from knot_fed.training.evaluation import evaluate_classifier
from knot_fed.training.teacher import predict_soft_labels

logger = logging.getLogger("knot_fed")


@guard_handler(envelope.ABOUT)
def answer_handshake(message: Message, context: Context) -> Message:
    """Compare protocol, labels and transfer set, and check the private file, before any training."""
    client = Client.from_context(context)
    server = exchange.unpack_handshake(message.content)
    held = client.transfer_set() or client.kept_texts(server.fingerprint)
    fingerprint, labels = held.fingerprint if held else "", exchange.canonical_labels(client.run.label_space())
    ours = exchange.Handshake(envelope.PROTOCOL, labels, fingerprint, client.name)
    exchange.check_handshake(ours, server)
    if not server.fingerprint:
        raise WireError("the server names no transfer set; name the one that this run is about")
    client.check_model(client.model)
    client.bind(str(context.run_id), server.fingerprint)
    _, assignment = client.examples(on_note=partial(logger.info, "%s: %s") if client.node.data else ignore_note)
    if client.shard[1] > 1 and client.run.name:
        RunFolder.open(Path(client.run.runs_dir) / client.run.name).write_assignment(client.name, assignment)
    if held:
        hold_texts(held, context)
    return Message(exchange.pack_handshake(ours), reply_to=message)


@guard_handler(student_wire.METRICS)
def answer_evaluation(message: Message, context: Context) -> Message:
    """Evaluate the student on the private test split; only metrics leave, rounded as the policy requires.

    A student is counted only once it could be built. The client cannot verify that it was distilled in this run: a
    crafted one is measured too, and only the policy's limits bound what its metrics reveal.
    """
    client = Client.from_context(context)
    run, ledger, policy = str(context.run_id), client.ledger, client.policy
    check_evaluations(*ledger.evaluated(run), policy=policy)
    use_threads(client.run.threads)
    use_device(client.run)
    spec, arrays, temperature = student_wire.unpack_student(message.content)
    student, labels = client.build_student(spec, arrays), client.evaluation_labels(message.content)
    test = client.examples()[0].test
    check_test_size(len(test), policy=policy)
    with ledger.locked():
        check_evaluations(*ledger.evaluated(run), policy=policy)
        ledger.record(LedgerEntry(run=run, evaluations=1))
    soft_labels = predict_soft_labels(student, test.texts)
    metrics = evaluate_classifier(soft_labels, test.labels, labels, temperature=temperature)
    rounded = rounded_metrics(metrics, diameter=labels.diameter, policy=policy)
    return Message(student_wire.pack_metrics(rounded), reply_to=message)
