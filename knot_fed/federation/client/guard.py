"""Guards of the client handlers: only declared records are sent, and errors carry no private content."""

import functools
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from flwr.app import Context, Message, UserConfig

from knot_fed.errors import KnotError, describe_error
from knot_fed.federation.wire.checks import cut_printable
from knot_fed.federation.wire.envelope import REFUSAL, pack_refusal

LONGEST_LOGGED = 2000
_SCHEME = r"(?:[A-Za-z][A-Za-z0-9+.-]+:(?://)?)"
_START = rf"{_SCHEME}?(?:[A-Za-z]:|~\w*|\.{{1,2}})?[/\\]"
_CLAUSE = r"(?:(?!;\s|:\s|['\"()\n]).)"
_ABSOLUTE = re.compile(rf"(?<![\w.~]){_START}(?=\S)(?:{_CLAUSE}*[/\\])?")
_RELATIVE = re.compile(r"(?<![\w:])[\w.+-]+[/\\](?:[\w.+-]+[/\\])+")
_QUOTED = re.compile(rf"(['\"])({_START}.*?)\1", re.DOTALL)
_KEPT_SCHEME = "hf:"
Handler: TypeAlias = Callable[[Message, Context], Message]

logger = logging.getLogger("knot_fed")


def guard_handler(*declared: str) -> Callable[[Handler], Handler]:
    """Send only the declared records, and turn an exception into a refusal without content.

    Flower would copy the exception's text. Here the peer receives the refusal of an error of knot_fed, without folders
    of an owner's machine, and only the class of any other error; the rest is in the client's log.
    """

    def guard(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def answer(message: Message, context: Context) -> Message:
            kind = message.metadata.message_type
            try:
                reply = handler(message, context)
                extra = set(reply.content) - {*declared, REFUSAL}
                if extra:
                    raise KnotError(f"the reply holds {len(extra)} undeclared record(s); nothing was sent")
                return reply
            except KnotError as error:
                node = context.node_config  # a virtual client, which has no owner, has a partition instead
                owned = bool(node.get("data")) or not node.get("num-partitions")
                reason = refusal_for_peer(error, node) if owned else str(error)
                if reason != str(error):
                    logger.warning("a %s was refused: %s", kind, cut_printable(str(error), LONGEST_LOGGED))
            except Exception as error:
                reason = f"the client failed with {type(error).__name__}; see the client's own log"
                logger.warning("%s", describe_error(error, of=f"a {kind}"))
            return Message(pack_refusal(reason), reply_to=message)

        return answer

    return guard


def refusal_for_peer(error: KnotError, node: UserConfig) -> str:
    """Return the text that a peer receives for an error of a node with an owner."""
    known = [value for value in node.values() if isinstance(value, str)]
    return without_folders(error.refusal[:LONGEST_LOGGED], known=known)


def without_folders(text: str, *, known: Iterable[str] = ()) -> str:
    r"""Remove the folders from everything that looks like a path, and keep the last component.

    It removes too much rather than too little: an unquoted path with spaces ends at the last separator of its clause.
    The folders of `known` paths of this machine are removed whatever characters they contain.

    >>> without_folders("model 'hf:/home/ada/models/bert' cannot be loaded")
    "model 'hf:bert' cannot be loaded"
    >>> without_folders(r"C:\Users\Ada\My notes\a.csv: no such file")
    'a.csv: no such file'
    """
    for folder in _folders(known):
        text = text.replace(folder, "")
    text = _QUOTED.sub(lambda found: found[1] + _last(found[2]) + found[1], text)
    text = _ABSOLUTE.sub(lambda found: _KEPT_SCHEME if found[0].startswith(_KEPT_SCHEME) else "", text)
    return _RELATIVE.sub("", text)


def _folders(known: Iterable[str]) -> list[str]:
    """Return the known paths and all their parents with a separator at the end, the longest first."""
    paths = [Path(path.removeprefix(_KEPT_SCHEME)) for path in known]
    folders = {str(folder) for path in paths if path.is_absolute() for folder in (path, *path.parents[:-1])}
    spelt = {spelling for folder in folders for spelling in (folder, repr(folder)[1:-1])}
    return sorted((f"{folder}/" for folder in spelt), key=len, reverse=True)


def _last(path: str) -> str:
    scheme = _KEPT_SCHEME if path.startswith(_KEPT_SCHEME) else ""
    parts = [part for part in re.split(r"[/\\]+", path.removeprefix(_KEPT_SCHEME)) if part]
    return scheme + (parts[-1] if parts else "")
