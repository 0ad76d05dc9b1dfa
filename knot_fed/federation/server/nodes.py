"""Finding the clients and shaking hands with each before any training."""

import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Message, Metadata, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from knot_fed.config import RunConfig
from knot_fed.errors import FederationError, WireError
from knot_fed.federation.flower.bounded_grid import UNREADABLE
from knot_fed.federation.wire import envelope, exchange
from knot_fed.federation.wire.checks import cut_printable
from knot_fed.federation.wire.message_log import log_message

FAILURES = {
    ErrorCode.UNKNOWN: "its process ended before it answered, killed or out of memory",
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "could not load the app",
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "its app raised an error",
    ErrorCode.MESSAGE_UNAVAILABLE: "the request to it was lost",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its answer was lost",
    ErrorCode.NODE_UNAVAILABLE: "its node is no longer connected",
    ErrorCode.MOD_FAILED_PRECONDITION: "its node refused the request",
    ErrorCode.INVALID_FAB: "its node does not run this app",
    ErrorCode.CLIENT_APP_CRASHED: "its app ended before it answered, killed or out of memory",
}
_CLASS = re.compile(r"<class '(?:\w{1,60}\.){0,6}(\w{1,60})'>", re.ASCII)
SETTLE_SECONDS = 3.0
POLL_SECONDS = 0.2

logger = logging.getLogger("knot_fed")


def wait_for_nodes(grid: Grid, config: RunConfig) -> list[int]:
    """Wait until `wait-for` nodes are there, or `min-teachers` and no new one for three seconds.

    Raises
    ------
    FederationError
        If too few nodes are there within `timeout` seconds.
    """
    needed = config.wait_for or config.min_teachers
    deadline = time.monotonic() + config.timeout
    seen, since = 0, time.monotonic()
    while True:
        node_ids = sorted(grid.get_node_ids())
        now = time.monotonic()
        if len(node_ids) != seen:
            seen, since = len(node_ids), now
        if seen >= needed and (config.wait_for or now - since >= SETTLE_SECONDS):
            logger.info("%d node(s) joined", seen)
            return node_ids
        if now > deadline:
            raise FederationError(
                f"{seen} node(s) joined within {config.timeout:g} s, expected {needed}; start the rest"
            )
        time.sleep(POLL_SECONDS)


def shake_hands(
    grid: Grid, node_ids: list[int], ours: exchange.Handshake, *, timeout: float
) -> tuple[dict[str, tuple[int, exchange.Handshake]], dict[str, str], set[int]]:
    """Ask every node for protocol, labels, transfer set and name.

    A name is the client's own word, unless the SuperLink knows the node's key by a name: then it has to be that one.

    Returns
    -------
    accepted
        Node number and handshake by client name.
    refused
        Reason by client name, or by `node <number>` where there is no usable name.
    silent
        The nodes that gave no answer of their own.
    """
    registered = registered_names(grid)
    connected = [node for node in node_ids if node in registered]
    messages = [Message(exchange.pack_handshake(ours), dst_node_id=node, message_type="query") for node in connected]
    started = time.monotonic()
    for message in messages:
        log_message("sent", message, node=f"node {message.metadata.dst_node_id}")
    replies = matched([m.metadata for m in messages], grid.send_and_receive(messages, timeout=timeout))
    seconds = time.monotonic() - started
    handshakes: dict[int, exchange.Handshake] = {}
    refused: dict[str, str] = {}
    for node_id in node_ids:
        try:
            theirs = _handshake(replies.get(node_id), ours)
            check_registered_name(theirs.name, node_id, registered)
            handshakes[node_id] = theirs
        except WireError as error:
            refused[f"node {node_id}"] = str(error)
    bearers = Counter(theirs.name for theirs in handshakes.values())
    accepted: dict[str, tuple[int, exchange.Handshake]] = {}
    for node_id, theirs in handshakes.items():
        if bearers[theirs.name] > 1:
            refused[f"node {node_id}"] = f"calls itself {theirs.name}, as another node does; give each its own name"
        else:
            accepted[theirs.name] = (node_id, theirs)
    for node_id, reply in replies.items():
        node, outcome = _told(node_id, accepted, refused)
        log_message("received", reply, node=node, seconds=seconds, outcome=outcome)
    silent = {node_id for node_id in node_ids if node_id not in replies or not replies[node_id].has_content()}
    return accepted, refused, silent


def registered_names(grid: Grid) -> dict[int, str]:
    """Return each connected node's name as its key was registered; empty where it was registered without one."""
    return {node.node_id: node.name for node in grid.get_nodes()}


def check_registered_name(claimed: str, node_id: int, registered: Mapping[int, str]) -> None:
    """Refuse a client that calls itself otherwise than the SuperLink calls its key.

    Where the SuperLink names some nodes, a node without a name is refused too: the name that it claims may be that of
    a client that is away, and only connected nodes are listed. Where it names none, the claim stands.

    Parameters
    ----------
    claimed
        A name that `check_handshake` has passed.
    node_id
        The node that claims it.
    registered
        As `registered_names` returns them.

    Raises
    ------
    WireError
        If the name is not that of the node's key.
    """
    name = registered[node_id]
    if name and name != claimed:
        raise WireError(
            f"calls itself {claimed}, and its key is registered as {cut_printable(name, 64)}; set that name in its node"
            " configuration"
        )
    if not name and any(registered.values()):
        raise WireError(
            f"calls itself {claimed}, and its key is registered without a name; register a new key under this name"
        )


def _told(
    node_id: int, accepted: dict[str, tuple[int, exchange.Handshake]], refused: dict[str, str]
) -> tuple[str, str]:
    """Return a node's name and what became of its handshake, for the log."""
    names = [name for name, (number, _) in accepted.items() if number == node_id]
    label = f"node {node_id}"
    return (names[0], "ok") if names else (label, f"rejected: {refused[label]}")


def matched(asked: Sequence[Metadata], replies: Iterable[Message]) -> dict[int, Message]:
    """Return each node's first reply with content, or else its last; any other is logged and left out.

    Parameters
    ----------
    asked
        Of the messages sent.
    replies
        In any order; who sent one, and to what, is what its metadata say.
    """
    awaited = {metadata.message_id: metadata.dst_node_id for metadata in asked}
    answers: dict[int, Message] = {}
    for reply in replies:
        node_id = reply.metadata.src_node_id
        answered = node_id in answers and answers[node_id].has_content()
        if awaited.get(reply.metadata.reply_to_message_id) != node_id or answered:
            logger.warning("node %d answered what nobody had asked it, or twice; the reply is left out", node_id)
        else:
            answers[node_id] = reply
    return answers


def content_of(reply: Message) -> RecordDict:
    """Return a reply's records.

    Raises
    ------
    WireError
        If the client failed or refused, or sent what could not be read.
    """
    if not reply.has_content():
        if reply.error.code == UNREADABLE:
            raise WireError(cut_printable(reply.error.reason or "", envelope.LONGEST_REFUSAL))
        raise WireError(f"{_told_failure(reply)}; see the client's log")
    reason = envelope.refusal_of(reply.content)
    if reason is not None:
        raise WireError(reason)
    return reply.content


def _told_failure(reply: Message) -> str:
    """Tell in words what Flower reports in the place of an answer; of a peer's text only the class of an error."""
    code = reply.error.code
    raised = _CLASS.match(reply.error.reason or "")
    kind = raised[1] if raised else f"Flower's error {code}"
    return f"{FAILURES.get(code, 'failed')} ({kind})"


def _handshake(reply: Message | None, ours: exchange.Handshake) -> exchange.Handshake:
    if reply is None:
        raise WireError("gave no answer in time; see the client's log")
    theirs = exchange.unpack_handshake(content_of(reply))
    exchange.check_handshake(ours, theirs)
    if not theirs.name:
        raise WireError("has no name; set name in its node configuration")
    return theirs
