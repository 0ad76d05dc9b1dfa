import json
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse

from knot_fed.errors import WireError
from knot_fed.federation.flower.bounded_grid import UNREADABLE, BoundedGrid
from knot_fed.federation.wire.envelope import ReplyBounds
from tests.deployment.hostile_node import Builder, Objects

BOUNDS = ReplyBounds.of_soft_labels(100, 5)
NODE = 7


@dataclass
class Store:
    """The objects of one reply on a SuperLink."""

    objects: Objects
    missing: set = field(default_factory=set)
    confirmed: list = field(default_factory=list)

    def PullMessages(self, request):
        (asked,) = request.message_ids
        envelope = message_to_proto(reply(RecordDict(), reply_to_message_id=asked))
        return PullAppMessagesResponse(messages_list=[envelope], message_object_trees=[self.objects.tree()])

    def PullObject(self, request):
        found, there = request.object_id in self.objects.contents, request.object_id not in self.missing
        content = self.objects.contents[request.object_id] if found and there else b""
        return PullObjectResponse(object_found=found, object_available=there, object_content=content)

    def ConfirmMessageReceived(self, request):
        self.confirmed.append(request.message_object_id)


class Grid(BoundedGrid):
    """Sends nothing and reads replies from a store."""

    def __init__(self, store):
        self._client = store
        store._client = SimpleNamespace(event_hooks={"response": []})
        self._run, self.node = SimpleNamespace(run_id=3), None
        super().__init__(self, BOUNDS)

    @property
    def run(self):
        return self._run

    def push_messages(self, messages):
        return ["m1" for _ in messages]


def reply(content, **changes):
    facts = {
        "run_id": 3, "message_id": "", "src_node_id": 99, "dst_node_id": 1, "reply_to_message_id": "lie",
        "group_id": "", "created_at": time.time(), "ttl": 60.0, "message_type": "train",
    }  # fmt: skip
    metadata = Metadata(**{**facts, **changes})
    if isinstance(content, Error):
        return make_message(metadata=metadata, error=content)
    return make_message(metadata=metadata, content=content)


def received(objects, missing=()):
    store = Store(objects, set(missing))
    asked = reply(RecordDict(), dst_node_id=NODE)
    replies = list(Grid(store).send_and_receive([asked], timeout=0.0 if missing else 30.0))
    return replies, store


def answer(size=500):
    return RecordDict({"soft-labels": ArrayRecord({"soft-labels": Array(np.ones(size, np.float32))})})


def test_an_honest_reply_is_read_and_belongs_to_the_node_that_was_asked():
    objects = Objects.of(reply(answer()))
    (message,), store = received(objects)
    np.testing.assert_array_equal(message.content["soft-labels"]["soft-labels"].numpy(), np.ones(500, np.float32))
    assert (message.metadata.src_node_id, message.metadata.reply_to_message_id) == (NODE, "m1")
    assert store.confirmed == [objects.root]


def test_an_error_of_a_node_keeps_its_number_and_loses_its_words():
    (message,), _ = received(Objects.of(reply(Error(7, "x" * 1000))))
    assert (message.error.code, message.error.reason) == (7, None)


def of_message(build, *children):
    body = Objects.of(reply(RecordDict())).contents
    root = next(content for content in body.values() if content.startswith(b"Message"))
    return build.built(build.add("Message", root.partition(b"\0")[2], *children))


def of_array(about, *chunks):
    build = Builder()
    names = [build.add("ArrayChunk", chunk) for chunk in chunks]
    array = build.add("Array", about if isinstance(about, bytes) else json.dumps(about).encode(), *names)
    arrays = build.add("ArrayRecord", json.dumps({"soft-labels": array}).encode(), array)
    return of_message(build, build.add("RecordDict", json.dumps({"soft-labels": arrays}).encode(), arrays))


def not_a_message():
    build = Builder()
    return build.built(build.add("RecordDict", b"{}"))


HOSTILE = {
    "large": (lambda: Objects.of(reply(answer(10**6))), "more than the"),
    "chunk named often": (
        lambda: of_array(
            {"dtype": "float32", "shape": [5], "stype": "numpy.ndarray", "arraychunk_ids": [0] * 10_000}, bytes(1 << 15)
        ),
        "more than the",
    ),
    "chunk that is not there": (
        lambda: of_array({"dtype": "f", "shape": [5], "stype": "n", "arraychunk_ids": [4]}, b"x"),
        "cannot be read",
    ),
    "broken": (lambda: of_array(b"{]", b"x"), "cannot be read"),
    "many objects": (
        lambda: Objects.of(reply(RecordDict({f"r{number}": ConfigRecord({"x": number}) for number in range(100)}))),
        "objects, expected",
    ),
    "not a message": (not_a_message, "is not a message"),
    "message without records": (lambda: of_message(Builder()), "cannot be read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_reply_that_cannot_be_read_is_an_error_of_its_node_and_ends_nothing(name):
    build, reason = HOSTILE[name]
    (message,), store = received(build())
    assert message.error.code == UNREADABLE
    assert reason in message.error.reason
    assert message.metadata.src_node_id == NODE
    assert len(store.confirmed) <= 1


def test_a_reply_that_is_never_uploaded_is_waited_for_until_the_time_is_over():
    objects = Objects.of(reply(answer()))
    replies, store = received(objects, missing=[objects.root])
    assert not replies
    assert not store.confirmed


def test_a_body_is_refused_by_its_announced_length():
    grid = Grid(Store(not_a_message()))
    grid._check_response(httpx.Response(200, headers={"content-length": str(BOUNDS.bytes)}))
    with pytest.raises(WireError, match=r"holds an object of \d+ bytes"):
        grid._check_response(httpx.Response(200, headers={"content-length": str(1 << 30)}))
