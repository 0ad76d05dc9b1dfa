"""The client's handlers of a secure sum, the state that they keep between messages, and the owner's limits."""

from collections.abc import Callable
from typing import Any, TypeAlias

from flwr.app import ConfigRecord, Context, Message

from knot_fed.aggregation import single_weights, weight_bound
from knot_fed.errors import WireError
from knot_fed.federation.client.guard import guard_handler
from knot_fed.federation.client.settings import Client
from knot_fed.federation.secure import sum_wire
from knot_fed.federation.secure.peer import Peer, deal_shares, mask_values, receive_shares, reveal_shares
from knot_fed.federation.wire import exchange
from knot_fed.models import use_device, use_threads
from knot_fed.privacy.policy_checks import check_scheme_may_enter_sum
from knot_fed.privacy.secure_sum import Quantisation, quantise

STATE = "secure-sum"
Answer: TypeAlias = Callable[[Client, exchange.TrainRequest, Context], exchange.TrainReply]
"""Labels the requested rows within the policy, and enters them in the ledger as summed."""


@guard_handler(sum_wire.SECURE)
def answer_keys(message: Message, context: Context) -> Message:
    """Draw the keys of a new round, and wipe what is left of another."""
    _take_peer(context)
    client, round_number = Client.from_context(context), sum_wire.unpack_keys_request(message.content)
    check_scheme_may_enter_sum(client.run.weights.scheme, policy=client.policy)
    peer = Peer.fresh(round_number)
    _keep_peer(peer, context)
    return Message(sum_wire.pack_keys(round_number, peer.public_keys), reply_to=message)


@guard_handler(sum_wire.SECURE)
def answer_shares(message: Message, context: Context) -> Message:
    """Deal shares of this client's secrets to all peers."""
    peer, client = _take_peer(context), Client.from_context(context)
    keys, place = sum_wire.unpack_shares_request(message.content)
    dealt, sealed = deal_shares(_begun(peer), keys, place=place, least_clients=client.policy.least_clients)
    _quantisation(client, clients=len(keys))
    _keep_peer(dealt, context)
    return Message(sum_wire.pack_sealed(keys.round_number, sealed), reply_to=message)


def masked_answer(answer: Answer) -> Callable[[Message, Context], Message]:
    """Make the handler that labels rows by `answer` and sends them masked."""

    @guard_handler(sum_wire.SECURE)
    def answer_masked(message: Message, context: Context) -> Message:
        """Label the requested rows, weight them, and send weights and weighted soft labels under masks."""
        peer, client = _take_peer(context), Client.from_context(context)
        use_threads(client.run.threads)
        use_device(client.run)
        request, sealed = sum_wire.unpack_masked_request(message.content)
        least = client.policy.least_clients
        received = receive_shares(_begun(peer, round_number=request.round), sealed, least_clients=least)
        quantisation = _quantisation(client, clients=len(received.seal_keys))
        reply = answer(client, request, context)
        weights = single_weights(client.run.weights.scheme, reply.answer, power=client.run.weights.power)
        masked = mask_values(received, quantise(reply.answer.soft_labels, weights, quantisation))
        _keep_peer(masked.peer, context)
        content = sum_wire.MaskedAnswer(
            masked.values, masked.commitment, reused=reply.reused, seconds=reply.seconds, claim=reply.claim
        )
        return Message(sum_wire.pack_masked(request.round, content), reply_to=message)

    return answer_masked


@guard_handler(sum_wire.SECURE)
def answer_unmask(message: Message, context: Context) -> Message:
    """Reveal one share of each peer, once: the round's secrets are wiped before the reply is sent."""
    peer, client = _take_peer(context), Client.from_context(context)
    round_number, survivors = sum_wire.unpack_unmask_request(message.content)
    least = client.policy.least_clients
    shares = reveal_shares(_begun(peer, round_number=round_number), survivors, least_clients=least)
    return Message(sum_wire.pack_revealed(round_number, shares), reply_to=message)


def _quantisation(client: Client, *, clients: int) -> Quantisation:
    """Return the scale of a sum over all clients and the public teacher."""
    bound = weight_bound(client.run.weights.scheme, power=client.run.weights.power)
    return Quantisation(client.run.privacy.sum_bits, bound, parties=clients + 1)


def _take_peer(context: Context) -> Peer | None:
    """Remove the round's secrets from the state: a refused request ends the round, and none can be repeated."""
    record = context.state.pop(STATE, None)
    if not isinstance(record, ConfigRecord):
        return None
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    return Peer(**values)


def _keep_peer(peer: Peer, context: Context) -> None:
    context.state[STATE] = ConfigRecord(peer.to_mapping())  # type: ignore[arg-type]


def _begun(peer: Peer | None, *, round_number: int | None = None) -> Peer:
    if peer is None:
        raise WireError("asks for a stage of a secure sum that has not begun here, or has ended; ask for keys first")
    if round_number is not None and peer.round_number != round_number:
        raise WireError(f"asks for round {round_number}, the keys are of round {peer.round_number}; ask for keys first")
    return peer
