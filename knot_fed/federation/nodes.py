"""Finding the clients and shaking hands with each before any training."""

import logging
import time

from flwr.app import Message
from flwr.serverapp import Grid

from knot_fed.config import RunConfig
from knot_fed.errors import FederationError, WireError
from knot_fed.federation import wire

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
    grid: Grid, node_ids: list[int], ours: wire.Handshake, *, timeout: float
) -> tuple[dict[str, tuple[int, wire.Handshake]], dict[str, str], set[int]]:
    """Ask every node for protocol, labels, transfer set and name.

    Returns
    -------
    accepted
        Node number and handshake by client name.
    refused
        Reason by client name, or by `node <number>` where there is no usable name.
    silent
        The nodes that gave no answer of their own.
    """
    messages = [Message(wire.pack_handshake(ours), dst_node_id=node, message_type="query") for node in node_ids]
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=timeout)}
    accepted: dict[str, tuple[int, wire.Handshake]] = {}
    refused: dict[str, str] = {}
    for node_id in node_ids:
        try:
            theirs = _handshake(replies.get(node_id), ours)
            if theirs.name in accepted:
                raise WireError(f"calls itself {theirs.name}, as another node does; give each node its own name")
            accepted[theirs.name] = (node_id, theirs)
        except WireError as error:
            refused[f"node {node_id}"] = str(error)
    silent = {node_id for node_id in node_ids if node_id not in replies or not replies[node_id].has_content()}
    return accepted, refused, silent


def _handshake(reply: Message | None, ours: wire.Handshake) -> wire.Handshake:
    if reply is None:
        raise WireError("gave no answer in time; see the client's log")
    if not reply.has_content():
        raise WireError(f"failed with error {reply.error.code}; see the client's log")
    reason = wire.refusal_of(reply.content)
    if reason is not None:
        raise WireError(reason)
    theirs = wire.unpack_handshake(reply.content)
    wire.check_handshake(ours, theirs)
    if not theirs.name:
        raise WireError("has no name; set name in its node configuration")
    return theirs
