"""The client: a private teacher that answers with soft labels and nothing else."""

import time

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import WireError
from knot_fed.federation import wire
from knot_fed.federation.client import HELD_TEXTS, Client, answer_evaluation, answer_handshake
from knot_fed.federation.crossings import log_crossings
from knot_fed.federation.guard import only_declared_records, redact_errors
from knot_fed.federation.ledger import Entry
from knot_fed.models import use_threads
from knot_fed.privacy.policy import check_limits, release_soft_labels
from knot_fed.teacher import load_or_train_teacher, predict_soft_labels

app = ClientApp(mods=[log_crossings])
app.query()(answer_handshake)
app.evaluate()(answer_evaluation)


@app.train()
@redact_errors
@only_declared_records(wire.SOFT_LABELS, wire.ANSWER)
def train(message: Message, context: Context) -> Message:
    """Train or load the teacher, label the slice of the transfer set, and release what the policy allows."""
    client = Client.from_context(context)
    use_threads(client.run.threads)
    request = wire.unpack_train_request(message.content)
    run, ledger = str(context.run_id), client.ledger
    client.check_model(client.model)
    client.bind(run, request.fingerprint)
    transfer = _held_transfer_set(request, context, client)
    rows = transfer.texts[request.start : request.stop]
    check_limits(
        len(rows),
        policy=client.policy,
        released_in_run=ledger.released_in_run(run),
        released_in_life=ledger.released_in_life(),
    )
    started = time.monotonic()
    examples, _ = client.examples()
    teacher, reused = load_or_train_teacher(
        client.spec(transfer),
        examples,
        client.run.teacher,
        seed=client.seed(),
        folder=client.state / "teachers",
        feature_cache=client.features,
    )
    soft_labels = predict_soft_labels(
        teacher, rows, temperature=client.run.teacher.temperature, kept=client.state / "answers"
    )
    confidence = client.confidence(teacher, soft_labels, texts=rows, private=examples.train.texts)
    with ledger.locked():
        release = release_soft_labels(
            soft_labels,
            confidence=confidence,
            examples=len(examples.train),
            policy=client.policy,
            released_in_run=ledger.released_in_run(run),
            released_in_life=ledger.released_in_life(),
        )
        ledger.record(Entry(run, request.round, texts=len(rows)))
    reply = wire.TrainReply(
        soft_labels=release.soft_labels,
        confidence=np.zeros(len(rows), dtype=np.float32) if release.confidence is None else release.confidence,
        examples=release.examples or 0,
        reused=reused,
        seconds=time.monotonic() - started,
    )
    return Message(wire.pack_soft_labels(reply, round_number=request.round), reply_to=message)


def _held_transfer_set(request: wire.TrainRequest, context: Context, client: Client) -> TransferSet:
    if request.transfer is not None:
        context.state[HELD_TEXTS] = wire.pack_transfer_set(request.transfer)
        client.keep_texts(request.transfer)
    held = context.state.get(HELD_TEXTS)
    transfer = wire.unpack_transfer_set(held) if isinstance(held, ConfigRecord) else None
    transfer = transfer or client.kept_texts(request.fingerprint)
    if transfer is None:
        raise WireError("the transfer set was never received; send the texts with the first request")
    if transfer.fingerprint != request.fingerprint or request.stop > len(transfer):
        raise WireError("the request names another transfer set than the one held; send its texts")
    return transfer
