"""The client app: a private teacher that answers with soft labels and nothing else."""

from functools import partial

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from knot_fed.federation.client.guard import guard_handler
from knot_fed.federation.client.handlers import answer_evaluation, answer_handshake
from knot_fed.federation.client.held_texts import requested_texts
from knot_fed.federation.client.personal import answer_consensus
from knot_fed.federation.client.release import answer
from knot_fed.federation.client.sent_rows import pack_answer
from knot_fed.federation.client.settings import Client
from knot_fed.federation.secure import sum_wire
from knot_fed.federation.secure.client import answer_keys, answer_shares, answer_unmask, masked_answer
from knot_fed.federation.wire import exchange, personal_wire
from knot_fed.federation.wire.message_log import log_messages
from knot_fed.models import use_device, use_threads
from knot_fed.privacy.policy_checks import check_soft_labels_may_leave_alone

app = ClientApp(mods=[log_messages])
app.query()(answer_handshake)
app.evaluate()(answer_evaluation)


@app.train()
@guard_handler(exchange.SOFT_LABELS, exchange.ANSWER)
def train(message: Message, context: Context) -> Message:
    """Answer with soft labels that the server can read, unless the policy requires a secure sum."""
    client = Client.from_context(context)
    check_soft_labels_may_leave_alone(client.policy)
    use_threads(client.run.threads)
    use_device(client.run)
    request = exchange.unpack_train_request(message.content)
    reply = label_rows(client, request, context)
    return Message(pack_answer(client, reply, request, context), reply_to=message)


def label_rows(
    client: Client, request: exchange.TrainRequest, context: Context, *, summed: bool = False
) -> exchange.TrainReply:
    """Train or load the teacher, label the slice of the transfer set, and release what the policy allows."""
    run = str(context.run_id)
    client.check_model(client.model)
    client.bind(run, request.fingerprint)
    return answer(client, request, requested_texts(request, context, client), run=run, summed=summed)


app.train(personal_wire.STAGE)(answer_consensus)
app.train(sum_wire.KEYS_STAGE)(answer_keys)
app.train(sum_wire.SHARES_STAGE)(answer_shares)
app.train(sum_wire.MASKED_STAGE)(masked_answer(partial(label_rows, summed=True)))
app.train(sum_wire.UNMASK_STAGE)(answer_unmask)
