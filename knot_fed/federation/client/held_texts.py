"""The transfer set that a client holds from one message to the next."""

import json
import zlib
from functools import lru_cache

from flwr.app import ConfigRecord, Context

from knot_fed.data.transfer_set import TransferSet
from knot_fed.errors import WireError
from knot_fed.federation.client.settings import Client
from knot_fed.federation.wire import exchange

HELD_TEXTS = "held-texts"
FASTEST = 1


def hold_texts(transfer: TransferSet, context: Context) -> None:
    """Hold the texts in the node's state, compressed: a simulation keeps, and moves, the states of all its clients."""
    packed = zlib.compress(json.dumps(transfer.texts, ensure_ascii=False).encode("utf-8", "surrogatepass"), FASTEST)
    context.state[HELD_TEXTS] = ConfigRecord({HELD_TEXTS: packed})


def requested_texts(request: exchange.TrainRequest, context: Context, client: Client) -> TransferSet:
    """Return the texts that came with the request, or else those in the node's state or folder.

    Raises
    ------
    WireError
        If the client does not hold the texts that the request names.
    """
    transfer = request.transfer or _held(context) or client.kept_texts(request.fingerprint)
    if request.transfer is not None:
        hold_texts(request.transfer, context)
        client.keep_texts(request.transfer)
    if transfer is None:
        raise WireError("the transfer set was never received; send the texts with the first request")
    if transfer.fingerprint != request.fingerprint or request.stop > len(transfer):
        raise WireError("the request names another transfer set than the one held; send its texts")
    return transfer


def _held(context: Context) -> TransferSet | None:
    """Read the node's state, whose texts were checked when they arrived, or are the client's own."""
    held = context.state.get(HELD_TEXTS)
    packed = held.get(HELD_TEXTS) if isinstance(held, ConfigRecord) else None
    return _unpacked(packed) if isinstance(packed, bytes) else None


@lru_cache(maxsize=2)
def _unpacked(packed: bytes) -> TransferSet:
    """Unpack texts once for the virtual clients of a process; they are public."""
    rows = json.loads(zlib.decompress(packed).decode("utf-8", "surrogatepass"))
    return TransferSet(tuple(text if isinstance(text, str) else (text[0], text[1]) for text in rows))
