"""A sliding window of requests: a bounded number are under way at once, all under one deadline.

Flower's in-memory link compares each node with each request under way, ten times a second, and its HTTP grid is asked
for each reply by itself. Both are slow if all of 1,000 requests are under way while two clients work.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, cast

from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.superlink.grid import InMemoryGrid
from typing_extensions import override

WINDOW = 256
"""Requests under way at once: more than a cluster has workers; their contents are shared and cost no memory."""
POLL_SECONDS = 0.1


def slide(
    messages: Iterable[Message],
    *,
    push: Callable[[Sequence[Message]], Iterable[str | None]],
    pull: Callable[[Collection[str]], Iterable[Message]],
    timeout: float | None,
    window: int = WINDOW,
    poll: float = POLL_SECONDS,
) -> list[Message]:
    """Send messages in order, and return the replies that arrive within the timeout, in the order of arrival.

    A reply makes room for the next message. Nodes that never answer must not keep the others from being asked, however
    many they are: at the latest, message n of N is sent after n / N of half of the timeout.

    Parameters
    ----------
    push
        Sends messages, and returns the number of each, or None for one that could not be sent.
    pull
        Returns the replies that arrived to messages of the given numbers, each once.
    timeout
        Seconds for all messages together; None: no limit, and no window.
    window
        Messages under way at once, as long as they are answered.
    poll
        Seconds to wait if no reply has arrived.
    """
    waiting, started, replies, awaited = list(messages), time.monotonic(), list[Message](), set[str]()
    total = len(waiting)
    waiting.reverse()
    while True:
        elapsed = time.monotonic() - started
        due = math.ceil(min(1.0, 2 * elapsed / timeout) * total) if timeout else total
        room = max(window - len(awaited), due - (total - len(waiting)))
        batch = [waiting.pop() for _ in range(min(room, len(waiting)))]
        if batch:
            awaited.update(number for number in push(batch) if number)
        arrived = list(pull(awaited)) if awaited else []
        replies += arrived
        awaited.difference_update(reply.metadata.reply_to_message_id for reply in arrived)
        if not waiting and not awaited or timeout is not None and elapsed >= timeout:
            return replies
        if not arrived:
            time.sleep(poll)


class WindowedGrid(Grid):
    """A grid of Flower's simulation that sends requests in a sliding window."""

    def __init__(self, grid: Grid, *, window: int = WINDOW) -> None:
        self._grid = grid
        self._window = window
        self.set_run, self.create_message = grid.set_run, cast(Any, grid.create_message)  # type: ignore[method-assign]

    run = property(lambda self: self._grid.run)  # type: ignore[assignment]

    @override
    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    @override
    def get_nodes(self) -> Iterable[NodeInfo]:
        return self._grid.get_nodes()

    @override
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    @override
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return slide(messages, push=self.push_messages, pull=self.pull_messages, timeout=timeout, window=self._window)


def windowed(grid: Grid) -> Grid:
    """Send the requests of a simulation in a sliding window; other grids do it themselves, or answer at once."""
    return WindowedGrid(grid) if isinstance(grid, InMemoryGrid) else grid
