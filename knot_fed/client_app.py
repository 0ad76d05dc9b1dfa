"""The client: a private teacher that answers with soft labels and nothing else."""

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import WireError
from knot_fed.federation import wire
from knot_fed.federation.client import HELD_TEXTS, Client, answer_evaluation, answer_handshake
from knot_fed.federation.crossings import log_crossings
from knot_fed.federation.guard import only_declared_records, redact_errors
from knot_fed.federation.release import answer
from knot_fed.models import use_threads

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
    client.check_model(client.model)
    client.bind(str(context.run_id), request.fingerprint)
    transfer = _held_transfer_set(request, context, client)
    reply = answer(client, request, transfer, run=str(context.run_id))
    packed = wire.pack_soft_labels(reply, round_number=request.round, privacy=client.run.privacy)
    return Message(packed, reply_to=message)


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
