import threading
import time
from dataclasses import dataclass, field

import pytest
from flwr.app import Message, RecordDict
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce.vce_api import _register_nodes
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from knot_fed.config import RunConfig
from knot_fed.federation.flower.bounded_grid import bounded
from knot_fed.federation.flower.window import slide
from knot_fed.federation.wire.envelope import ReplyBounds
from tests.fakes import RUN_ID, InProcessGrid, virtual_clients

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


@pytest.fixture
def simulation():
    """The link of a simulation with nodes, its grid, and the nodes' numbers."""
    factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
    run = Run.create_empty(RUN_ID)
    run.federation_id, run.primary_task_id = NOOP_FEDERATION_ID, 1
    state, grid = factory.state(), InMemoryGrid(factory)
    state.run_ids[RUN_ID], state.task_store[1] = RunRecord(run=run), Task(task_id=1, run_id=RUN_ID)
    nodes = list(_register_nodes(6, factory))
    grid.set_run(run)
    InProcessGrid(virtual_clients(RunConfig(), 1))  # makes this process the server app of run RUN_ID
    return state, bounded(grid, ReplyBounds.of_arrays([])), nodes


def deliver(state, nodes):
    """Do what a simulation does for all nodes in one pass."""
    return [message.metadata.dst_node_id for node in nodes for message in state.get_message_ins(node, 1)]


def test_a_simulation_delivers_each_request_once_and_looks_at_no_idle_node(simulation, monkeypatch):
    state, grid, nodes = simulation
    looked = []
    check = state._check_stored_messages
    monkeypatch.setattr(state, "_check_stored_messages", lambda ids: looked.append(ids) or check(ids))
    assert deliver(state, nodes) == [] == looked
    asked = [nodes[1], nodes[4], nodes[1]]
    grid.push_messages([Message(RecordDict(), dst_node_id=node, message_type="query") for node in asked])
    assert deliver(state, nodes) == [nodes[1], nodes[4]]
    assert deliver(state, nodes) == [nodes[1]]
    looked.clear()
    assert deliver(state, nodes) == [] == looked


def test_a_wrapped_simulation_still_answers(simulation):
    state, grid, nodes = simulation
    done = threading.Event()

    def serve():
        while not done.wait(0.01):
            for node in nodes:
                for message in state.get_message_ins(node, 1):
                    reply = Message(RecordDict(), reply_to=message)
                    reply.metadata.__dict__["_message_id"] = f"{message.metadata.message_id}-reply"
                    state.store_message_res(reply)

    server = threading.Thread(target=serve)
    server.start()
    messages = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]
    replies = grid.send_and_receive(messages, timeout=20.0)
    done.set()
    server.join()
    assert sorted(reply.metadata.src_node_id for reply in replies) == sorted(nodes)
