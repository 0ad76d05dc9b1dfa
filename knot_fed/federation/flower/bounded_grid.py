"""A grid that reads replies within bounds, and only from the node that was asked.

A node uploads a reply to the server app as objects. Flower's own grid pulls all of them, whatever their size, trusts
what they state about their sender, and lets an unreadable one end the run.
"""

import json
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import httpx
from flwr.app import DEFAULT_TTL, Array, Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid import HttpGrid, InMemoryGrid
from typing_extensions import override

from knot_fed.errors import WireError
from knot_fed.federation.flower.window import WindowedGrid, slide
from knot_fed.federation.wire.envelope import ReplyBounds

POLL_SECONDS = 1.0
OBJECT_RECORD_BYTES = 256
FRAME_BYTES = 1 << 12
UNREADABLE = 1000


def bounded(grid: Grid, bounds: ReplyBounds) -> Grid:
    """Bound the size of replies that come over the network; those of a simulation never leave this machine.

    Requests to either are sent in a sliding window.
    """
    if isinstance(grid, HttpGrid):
        return BoundedGrid(grid, bounds)
    return WindowedGrid(grid) if isinstance(grid, InMemoryGrid) else grid


class BoundedGrid(HttpGrid):
    """Flower's grid over HTTP with replies of bounded size; an error takes the place of a larger one."""

    def __init__(self, grid: HttpGrid, bounds: ReplyBounds) -> None:
        self.__dict__ = grid.__dict__
        self._bounds = bounds
        self._largest_response = bounds.bytes + bounds.objects * OBJECT_RECORD_BYTES + FRAME_BYTES
        self._runtime_client._client.event_hooks["response"].append(self._check_response)

    @override
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send all messages at once: real clients work side by side, each with the whole timeout."""
        under_way: dict[str, _Awaited] = {}

        def push(batch: Sequence[Message]) -> list[str]:
            asked = [message.metadata for message in batch]
            numbers = list(self.push_messages(batch))
            under_way.update(
                (number, _Awaited(number, to.dst_node_id, to.message_type))
                for number, to in zip(numbers, asked, strict=False)
                if number
            )
            return numbers

        def pull(_: Collection[str]) -> list[Message]:
            arrived = {number: reply for number in under_way if (reply := self._reply(under_way[number]))}
            for number in arrived:
                del under_way[number]
            return list(arrived.values())

        return slide(messages, push=push, pull=pull, timeout=timeout, window=sys.maxsize, poll=POLL_SECONDS)

    def _reply(self, awaited: "_Awaited") -> Message | None:
        """Return a node's reply once it is complete, or an error in place of one that cannot be read."""
        try:
            if not awaited.objects:
                awaited.objects = self._objects_of_reply(awaited.message_id)
            if not awaited.objects or not self._pull(awaited):
                return None
            read = inflate_object_from_contents(awaited.objects[-1], awaited.contents)
            if not isinstance(read, Message):
                raise WireError("is not a message")
            content, error = (read.content, None) if read.has_content() else (None, Error(read.error.code))
        except httpx.HTTPError:
            raise
        except Exception as problem:
            reason = str(problem) if isinstance(problem, WireError) else "cannot be read"
            content, error = None, Error(UNREADABLE, f"sent a reply that {reason}; send only what was asked for")
        awaited.contents.clear()
        if awaited.objects:
            confirmed = ConfirmMessageReceivedRequest(
                node=self.node, run_id=self.run.run_id, message_object_id=awaited.objects[-1]
            )
            self._runtime_client.ConfirmMessageReceived(confirmed)
        return make_message(metadata=awaited.metadata(self.run.run_id), content=content, error=error)

    def _objects_of_reply(self, message_id: str) -> list[str]:
        """List the objects of a node's reply, the reply itself last; ignore replies to other messages."""
        pulled = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=[message_id]))
        for reply, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
            if reply.metadata.reply_to_message_id == message_id:
                names = [node.object_id for node in iterate_object_tree(tree)]
                if len(names) > self._bounds.objects:
                    raise WireError(f"has {len(names)} objects, expected {self._bounds.objects} at most")
                return names
        return []

    def _pull(self, awaited: "_Awaited") -> bool:
        """Pull the objects of a reply within the bounds; return whether it is complete."""
        contents = awaited.contents
        for name in awaited.objects:
            if name in contents:
                continue
            request = PullObjectRequest(node=self.node, run_id=self.run.run_id, object_id=name)
            pulled = self._runtime_client.PullObject(request)
            if not pulled.object_found:
                raise WireError("was not sent whole")
            if not pulled.object_available:
                return False
            contents[name] = pulled.object_content
            self._check_size(sum(map(len, contents.values())))
        self._check_size(sum(_expanded_bytes(content, contents) for content in contents.values()))
        return True

    def _check_size(self, size: int) -> None:
        if size > self._bounds.bytes:
            raise WireError(f"holds more than the {self._bounds.bytes} bytes that were asked for")

    def _check_response(self, response: httpx.Response) -> None:
        """Refuse a body by its announced length, before any byte is read."""
        announced = int(response.headers.get("content-length", 0))
        if announced > self._largest_response:
            raise WireError(f"holds an object of {announced} bytes, more than were asked for")


@dataclass(slots=True)
class _Awaited:
    """The reply to one message, as far as it has arrived."""

    message_id: str
    node_id: int
    message_type: str
    objects: list[str] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)

    def metadata(self, run_id: int) -> Metadata:
        """State the node that was asked, as the SuperLink verified it, and not what the reply states."""
        return Metadata(
            run_id=run_id,
            message_id=self.objects[-1] if self.objects else "",
            src_node_id=self.node_id,
            dst_node_id=SUPERLINK_NODE_ID,
            reply_to_message_id=self.message_id,
            group_id="",
            created_at=time.time(),
            ttl=DEFAULT_TTL,
            message_type=self.message_type,
        )


def _expanded_bytes(content: bytes, contents: dict[str, bytes]) -> int:
    """Count the bytes of an array after its chunks are joined; one chunk may be listed many times."""
    kind, children, _ = get_object_head_values_from_object_content(content)
    if kind != Array.__qualname__:
        return 0
    places = json.loads(get_object_body(content, Array))["arraychunk_ids"]
    return sum(len(contents[children[place]]) for place in places)
