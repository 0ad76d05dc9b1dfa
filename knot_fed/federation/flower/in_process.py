"""A grid in this process: real messages, as bytes, between the real apps, without a SuperLink or Ray."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from typing_extensions import override

from knot_fed.config import RunConfig, Scalar

FIRST_NODE = 100


@dataclass
class InProcessGrid(Grid):
    """Passes each message to a client app in this process, and the reply back, both as serialised bytes."""

    contexts: dict[int, Context]
    app: ClientApp

    def __post_init__(self) -> None:
        run_id = next((node.run_id for node in self.contexts.values()), 0)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1

    def _unused(self, *_: object, **__: object) -> Any:
        raise NotImplementedError

    set_run = create_message = push_messages = pull_messages = cast(Any, _unused)
    run = cast(Any, property(_unused))

    @override
    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    @override
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return [self.answer(message) for message in messages]

    def answer(self, message: Message) -> Message:
        """Deliver a message to its node, and return the reply."""
        message.metadata.__dict__["_message_id"] = str(uuid4())
        return self.carry(self.reply(self.carry(message)))

    def reply(self, message: Message) -> Message:
        """Return what the client app replies on the node that received a message."""
        return self.app(message, self.contexts[message.metadata.dst_node_id])

    def carry(self, message: Message) -> Message:
        """Return a message as it arrives: serialised and parsed."""
        return message_from_proto(ProtoMessage.FromString(message_to_proto(message).SerializeToString()))


def new_run_id() -> int:
    """Return a number that no other run has: ledgers count what a client has released by run."""
    return uuid4().int >> 65


def virtual_clients(config: RunConfig, count: int, *, run_id: int) -> dict[int, Context]:
    """Return the contexts of virtual clients by node, as in Flower's simulation."""
    places = {FIRST_NODE + index: index for index in range(count)}
    return {
        node_id: context(config, node={"partition-id": index, "num-partitions": count}, node_id=node_id, run_id=run_id)
        for node_id, index in places.items()
    }


def context(config: RunConfig, *, node: dict[str, Scalar], node_id: int, run_id: int) -> Context:
    """Return the context of one node."""
    return Context(run_id=run_id, node_id=node_id, node_config=node, state=RecordDict(), run_config=config.to_mapping())
