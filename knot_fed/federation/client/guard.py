"""Guards around the client handlers: nothing but the declared reply leaves, and errors carry no private content."""

import functools
import logging
from collections.abc import Callable
from typing import TypeAlias

from flwr.app import Context, Message, UserConfig

from knot_fed.errors import KnotError, told_error
from knot_fed.federation.client.redaction import without_folders
from knot_fed.federation.wire.checks import cut_printable
from knot_fed.federation.wire.envelope import REFUSAL, pack_refusal

LONGEST_LOGGED = 2000
Handler: TypeAlias = Callable[[Message, Context], Message]

logger = logging.getLogger("knot_fed")


def redact_errors(handler: Handler) -> Handler:
    """Turn an exception into a refusal without content.

    Flower copies the text of a client's exception into its reply. Of an error of knot_fed a peer is told the refusal,
    where the node has an owner without any folder of the owner's machine; of any other only the class is named. What
    is not told stands in the client's own log.
    """

    @functools.wraps(handler)
    def guarded(message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        try:
            return handler(message, context)
        except KnotError as error:
            reason = refusal_for_peer(error, context.node_config) if has_owner(context.node_config) else str(error)
            if reason != str(error):
                logger.warning("a %s was refused: %s", kind, cut_printable(str(error), LONGEST_LOGGED))
        except Exception as error:
            reason = f"the client failed with {type(error).__name__}; see the client's own log"
            logger.warning("%s", told_error(error, of=f"a {kind}"))
        return Message(pack_refusal(reason), reply_to=message)

    return guarded


def has_owner(node: UserConfig) -> bool:
    """Tell whether a node belongs to a data owner; a simulation gives its virtual clients a partition instead."""
    return bool(node.get("data")) or not node.get("num-partitions")


def refusal_for_peer(error: KnotError, node: UserConfig) -> str:
    """Return what a peer is told of an error of a node with an owner."""
    known = [value for value in node.values() if isinstance(value, str)]
    return without_folders(error.refusal[:LONGEST_LOGGED], known=known)


def only_declared_records(*declared: str) -> Callable[[Handler], Handler]:
    """Refuse to send a reply that holds a record other than the declared ones; a refusal may stand in for them."""

    def guard(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def guarded(message: Message, context: Context) -> Message:
            reply = handler(message, context)
            extra = set(reply.content) - {*declared, REFUSAL}
            if extra:
                raise KnotError(f"the reply holds {len(extra)} undeclared record(s); nothing was sent")
            return reply

        return guarded

    return guard
