"""A sliding window of requests: a bounded number are under way at once, all under one deadline.

A simulation's link compares every node with every request under way, again and again: with 1,000 of both a pass takes
10 seconds of a core. Here few are under way, and nodes without a request are passed over.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from threading import Lock

from flwr.app import Message
from flwr.server.superlink.linkstate import InMemoryLinkState
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
        late = timeout is not None and elapsed >= timeout
        if late or not (waiting or awaited):
            return replies
        if not arrived:
            time.sleep(poll)


class WindowedGrid(InMemoryGrid):
    """The grid of Flower's simulation with requests in a sliding window."""

    def __init__(self, grid: InMemoryGrid) -> None:
        self.__dict__ = grid.__dict__
        if isinstance(self.state, InMemoryLinkState):
            pass_over_idle_nodes(self.state)

    @override
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return slide(messages, push=self.push_messages, pull=self.pull_messages, timeout=timeout)


def pass_over_idle_nodes(state: InMemoryLinkState) -> None:
    """Let a simulation's link look for requests to a node only if some are stored and not delivered."""
    waiting, lock, store, find = Counter[int](), Lock(), state.store_message_ins, state.get_message_ins

    def store_and_count(message: Message) -> str | None:
        number = store(message)
        if number is not None:
            with lock:
                waiting[message.metadata.dst_node_id] += 1
        return number

    def find_if_waiting(node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Message]:
        if waiting.get(node_id, 0) <= 0:
            return []
        found = find(node_id, limit, run_id=run_id)
        with lock:
            waiting[node_id] -= len(found)
        return found

    vars(state).update(store_message_ins=store_and_count, get_message_ins=find_if_waiting)
