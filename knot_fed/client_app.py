"""The client: a private teacher that answers with soft labels and nothing else."""

import time

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import WireError
from knot_fed.federation import secure_wire, wire
from knot_fed.federation.client import HELD_TEXTS, Client, answer_evaluation, answer_handshake
from knot_fed.federation.guard import only_declared_records, redact_errors
from knot_fed.federation.ledger import Ledger
from knot_fed.federation.secure_client import answer_keys, answer_shares, answer_unmask, masked_answer
from knot_fed.models import use_threads
from knot_fed.privacy.policy import check_soft_labels_may_leave_alone, release_soft_labels
from knot_fed.teacher import load_or_train_teacher, predict_soft_labels

app = ClientApp()
app.query()(answer_handshake)
app.evaluate()(answer_evaluation)


@app.train()
@redact_errors
@only_declared_records(wire.SOFT_LABELS, wire.ANSWER)
def train(message: Message, context: Context) -> Message:
    """Answer with soft labels that the server reads, unless the policy asks for a secure sum."""
    client = Client.from_context(context)
    check_soft_labels_may_leave_alone(client.policy)
    use_threads(client.run.threads)
    request = wire.unpack_train_request(message.content)
    reply = label_rows(client, request, context)
    return Message(wire.pack_soft_labels(reply, round_number=request.round), reply_to=message)


def label_rows(client: Client, request: wire.TrainRequest, context: Context) -> wire.TrainReply:
    """Train or load the teacher, label the slice of the transfer set, and release what the policy allows."""
    transfer = _held_transfer_set(request, context)
    ledger = Ledger(client.state / "ledger.jsonl")
    rows = transfer.texts[request.start : request.stop]
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
    release = release_soft_labels(
        soft_labels,
        confidence=client.confidence(teacher, soft_labels, texts=rows, private=examples.train.texts),
        examples=len(examples.train),
        policy=client.policy,
        released_in_run=ledger.released_in_run(str(context.run_id)),
        released_in_life=ledger.released_in_life(),
    )
    ledger.record(run=str(context.run_id), round_number=request.round, texts=len(rows))
    return wire.TrainReply(
        soft_labels=release.soft_labels,
        confidence=np.zeros(len(rows), dtype=np.float32) if release.confidence is None else release.confidence,
        examples=release.examples or 0,
        reused=reused,
        seconds=time.monotonic() - started,
    )


def _held_transfer_set(request: wire.TrainRequest, context: Context) -> TransferSet:
    if request.transfer is not None:
        context.state[HELD_TEXTS] = wire.pack_transfer_set(request.transfer)
    held = context.state.get(HELD_TEXTS)
    if not isinstance(held, ConfigRecord):
        raise WireError("the transfer set was never received; send the texts with the first request")
    transfer = wire.unpack_transfer_set(held)
    if transfer.fingerprint != request.fingerprint or request.stop > len(transfer):
        raise WireError("the request names another transfer set than the one held; send its texts")
    return transfer


app.train(secure_wire.KEYS_STAGE)(answer_keys)
app.train(secure_wire.SHARES_STAGE)(answer_shares)
app.train(secure_wire.MASKED_STAGE)(masked_answer(label_rows))
app.train(secure_wire.UNMASK_STAGE)(answer_unmask)
