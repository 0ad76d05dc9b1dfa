"""Log one line for each message sent or received, the same on the server and on a client."""

import logging
import time
from collections.abc import Callable

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from knot_fed.federation.wire import envelope, exchange
from knot_fed.runs.log import log_event, log_to


def log_message(
    event: str,
    message: Message,
    *,
    node: str,
    round_number: int | None = None,
    seconds: float | None = None,
    outcome: str = "ok",
    size: int | None = None,
) -> None:
    """Log the counts and the outcome of one message, but none of its content.

    `event` is `sent` or `received`, `round_number` the round where the message does not state it, and `size` the
    content's bytes if they were counted.
    """
    content = message.content if message.has_content() else RecordDict()
    said_round, texts = _counts(content)
    log_event(
        event,
        logging.INFO if outcome == "ok" else logging.WARNING,
        message=message.metadata.message_type,
        run=message.metadata.run_id,
        round=round_number if said_round is None else said_round,
        node=node,
        # The server app is node 1; the other end of every message is a client.
        node_id=max(message.metadata.src_node_id, message.metadata.dst_node_id),
        texts=texts,
        bytes=envelope.count_bytes(content) if size is None else size,
        seconds=seconds,
        outcome=outcome,
    )


def log_messages(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Log a request when it arrives and its reply when it leaves; a mod of client apps."""
    if not logging.getLogger("knot_fed").hasHandlers():
        log_to()
    node = str(context.node_config.get("name") or f"partition-{context.node_config.get('partition-id', 0)}")
    log_message("received", message, node=node)
    started = time.monotonic()
    reply = call_next(message, context)
    reason = envelope.refusal_of(reply.content)
    outcome = "ok" if reason is None else f"refused: {reason}"
    log_message("sent", reply, node=node, seconds=time.monotonic() - started, outcome=outcome)
    return reply


def _counts(content: RecordDict) -> tuple[int | None, int | None]:
    """Return the round and the number of texts, as far as the records state them."""
    about = content.get(envelope.ABOUT, content.get(exchange.ANSWER))
    if not isinstance(about, ConfigRecord):
        return None, None
    arrays, texts = content.get(exchange.SOFT_LABELS), None
    start, stop = about.get("start"), about.get("stop")
    if isinstance(start, int) and isinstance(stop, int):
        texts = stop - start
    elif isinstance(arrays, ArrayRecord) and exchange.SOFT_LABELS in arrays:
        texts = int(next(iter(arrays[exchange.SOFT_LABELS].shape), 0))
    said = about.get("round", about.get("server-round"))
    return said if isinstance(said, int) else None, texts
