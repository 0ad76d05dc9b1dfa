"""Find the clients, and shake hands with each before any training."""

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
    """Wait for `wait-for` nodes, or for `min-teachers` and three seconds without a new one."""
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
            joined = f"{seen} node(s) joined within {config.timeout:g} s"
            raise FederationError(f"{joined}, expected {needed}; start the rest")
        time.sleep(POLL_SECONDS)


def shake_hands(
    grid: Grid, node_ids: list[int], ours: exchange.Handshake, *, timeout: float
) -> tuple[dict[str, tuple[int, exchange.Handshake]], dict[str, str], set[int]]:
    """Ask every node for protocol, labels, transfer set and name, which is also that of the node's key if it has one.

    Returns node number and handshake by client name, refusals by `node <number>`, and the silent nodes.
    """
    registered = registered_names(grid)
    connected = [node for node in node_ids if node in registered]
    content = exchange.pack_handshake(ours)
    messages = [Message(content, dst_node_id=node, message_type="query") for node in connected]
    started = time.monotonic()
    for message in messages:
        log_message("sent", message, node=f"node {message.metadata.dst_node_id}")
    replies = matched([m.metadata for m in messages], grid.send_and_receive(messages, timeout=timeout))
    seconds = time.monotonic() - started
    handshakes: dict[int, exchange.Handshake] = {}
    refused: dict[str, str] = {}
    for node_id in node_ids:
        try:
            if node_id not in replies:
                raise WireError("gave no answer in time; see the client's log")
            theirs = exchange.unpack_handshake(content_of(replies[node_id]))
            exchange.check_handshake(ours, theirs)
            if not theirs.name:
                raise WireError("has no name; set name in its node configuration")
            check_registered_name(theirs.name, node_id, registered)
            handshakes[node_id] = theirs
        except WireError as error:
            refused[f"node {node_id}"] = str(error)
    bearers = Counter(theirs.name for theirs in handshakes.values())
    for node_id, theirs in handshakes.items():
        if bearers[theirs.name] > 1:
            refused[f"node {node_id}"] = f"calls itself {theirs.name}, as another node does; give each its own name"
    accepted = {theirs.name: (node, theirs) for node, theirs in handshakes.items() if bearers[theirs.name] == 1}
    names = {node_id: name for name, (node_id, _) in accepted.items()}
    for node_id, reply in replies.items():
        label = f"node {node_id}"
        outcome = "ok" if node_id in names else f"rejected: {refused[label]}"
        log_message("received", reply, node=names.get(node_id, label), seconds=seconds, outcome=outcome)
    silent = {node_id for node_id in node_ids if node_id not in replies or not replies[node_id].has_content()}
    return accepted, refused, silent


def registered_names(grid: Grid) -> dict[int, str]:
    """Return each connected node's name as its key was registered, empty if without one."""
    return {node.node_id: node.name for node in grid.get_nodes()}


def check_registered_name(claimed: str, node_id: int, registered: Mapping[int, str]) -> None:
    """Refuse a client whose name differs from the one under which its key is registered.

    If the SuperLink names some nodes, a node without a name is refused too: it may claim the name of an absent client,
    and only connected nodes are listed. If it names none, the claim is accepted.
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


def matched(asked: Sequence[Metadata], replies: Iterable[Message]) -> dict[int, Message]:
    """Return each node's first reply with content, or else its last; log and drop replies that match no request."""
    awaited = {metadata.message_id: metadata.dst_node_id for metadata in asked}
    answers: dict[int, Message] = {}
    for reply in replies:
        node_id = reply.metadata.src_node_id
        answered = node_id in answers and answers[node_id].has_content()
        if awaited.get(reply.metadata.reply_to_message_id) != node_id or answered:
            logger.warning("node %d sent an unexpected or repeated reply, which is ignored", node_id)
        else:
            answers[node_id] = reply
    return answers


def content_of(reply: Message) -> RecordDict:
    """Return a reply's records; raises WireError if the client failed, refused, or sent something unreadable."""
    if not reply.has_content():
        if reply.error.code == UNREADABLE:
            raise WireError(cut_printable(reply.error.reason or "", envelope.LONGEST_REFUSAL))
        raised = _CLASS.match(reply.error.reason or "")  # the only part of a peer's text that is repeated
        kind = raised[1] if raised else f"Flower's error {reply.error.code}"
        raise WireError(f"{FAILURES.get(reply.error.code, 'failed')} ({kind}); see the client's log")
    reason = envelope.refusal_of(reply.content)
    if reason is not None:
        raise WireError(reason)
    return reply.content
