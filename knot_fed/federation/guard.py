"""Guards around the client handlers: nothing but the declared reply leaves, and errors carry no private content."""

import functools
import logging
from collections.abc import Callable
from typing import TypeAlias

from flwr.app import Context, Message

from knot_fed.errors import KnotError
from knot_fed.federation.wire import REFUSAL, pack_refusal

Handler: TypeAlias = Callable[[Message, Context], Message]

logger = logging.getLogger("knot_fed")


def redact_errors(handler: Handler) -> Handler:
    """Turn an exception into a refusal without content.

    Flower copies the text of a client's exception into its reply. Errors of knot_fed are written without private
    content and pass; of any other only the class is named.
    """

    @functools.wraps(handler)
    def guarded(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except KnotError as error:
            reason = str(error)
        except Exception as error:
            reason = f"the client failed with {type(error).__name__}; see the client's own log"
        logger.warning("refused a %s: %s", message.metadata.message_type, reason)
        return Message(pack_refusal(reason), reply_to=message)

    return guarded


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
