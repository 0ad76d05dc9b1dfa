"""Guards around the client handlers: nothing but the declared reply leaves, and errors carry no private content."""

import functools
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from flwr.app import Context, Message

from knot_fed.errors import KnotError
from knot_fed.federation.envelope import REFUSAL, pack_refusal

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
            logger.warning("a %s failed with %s in %s", message.metadata.message_type, *_kind_and_place(error))
        return Message(pack_refusal(reason), reply_to=message)

    return guarded


def _kind_and_place(error: Exception) -> tuple[str, str]:
    """Return class and line of an error, from the innermost call of knot_fed on; its text may quote a row."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [place for place, frame in enumerate(frames) if "knot_fed" in Path(frame.filename).parts]
    inner = frames[ours[-1] if ours else 0 :]
    places = (f"{Path(frame.filename).name}:{frame.lineno} ({frame.name})" for frame in inner)
    return type(error).__name__, " > ".join(places)


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
