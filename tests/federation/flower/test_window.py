import time
from dataclasses import dataclass, field

import pytest
from flwr.app import Message, RecordDict

from knot_fed.federation.flower.window import slide
from tests.fakes import InProcessGrid

NODES = tuple(range(100, 140))


@dataclass
class SlowGrid(InProcessGrid):
    """Answers each message after some seconds, out of order; keeps the largest number under way, and what was asked."""

    seconds: float = 0.0
    under_way: dict[str, tuple[float, Message]] = field(default_factory=dict)
    most: int = 0
    asked: list[tuple[int, float]] = field(default_factory=list)

    def push_messages(self, messages):
        for place, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(message.metadata.dst_node_id)
            self.under_way[message.metadata.message_id] = (time.monotonic() + self.seconds * (1 + place % 3), message)
            self.asked.append((message.metadata.dst_node_id, time.monotonic()))
        self.most = max(self.most, len(self.under_way))
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids):
        ready = [number for number in message_ids if self.under_way[number][0] <= time.monotonic()]
        ready = [number for number in ready if int(number) not in self.silent]
        return [Message(RecordDict(), reply_to=self.under_way.pop(number)[1]) for number in ready]


def ask(grid, *, window, timeout=20.0):
    messages = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in NODES]
    replies = slide(messages, push=grid.push_messages, pull=grid.pull_messages, timeout=timeout, window=window)
    return {reply.metadata.src_node_id for reply in replies}


@pytest.mark.parametrize("window", [1, 2, 7, 40, 1000])
def test_every_node_is_asked_once_and_no_more_than_the_window_are_under_way(window):
    grid = SlowGrid({}, seconds=0.001)
    assert ask(grid, window=window) == set(NODES)
    assert sorted(node for node, _ in grid.asked) == list(NODES)
    assert grid.most == min(window, len(NODES))


def test_a_silent_node_takes_one_place_and_the_rest_answer_at_once():
    grid, started = SlowGrid({}, silent=(NODES[0],)), time.monotonic()
    assert ask(grid, window=2, timeout=5.0) == set(NODES[1:])
    assert max(moment for _, moment in grid.asked) < started + 2.0
    assert time.monotonic() - started == pytest.approx(5.0, abs=0.5)


def test_silent_nodes_as_many_as_the_window_do_not_keep_the_rest_from_being_asked():
    silent, started = NODES[:30], time.monotonic()
    grid = SlowGrid({}, silent=silent)
    assert ask(grid, window=3, timeout=2.0) == set(NODES[30:])
    assert max(moment for _, moment in grid.asked) < started + 1.3
    assert time.monotonic() - started < 2.5


def test_all_messages_share_one_deadline():
    started = time.monotonic()
    assert ask(SlowGrid({}, silent=NODES), window=2, timeout=0.6) == set()
    assert time.monotonic() - started < 1.2
