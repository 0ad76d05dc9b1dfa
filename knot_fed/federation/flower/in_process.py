"""A grid within this process: real messages, as bytes, between the real apps, without a SuperLink and without Ray."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from typing_extensions import override

from knot_fed.config import RunConfig, Scalar

RUN_ID = 7
FIRST_NODE = 100


@dataclass
class InProcessGrid(Grid):
    """Hands each message to a client app in this process, and its reply back, both as serialised bytes.

    Parameters
    ----------
    contexts
        Each node's context, by its id.
    app
        What answers.
    """

    contexts: dict[int, Context]
    app: ClientApp

    def __post_init__(self) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, 1, 1

    @override
    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    @override
    def run(self) -> Run:
        raise NotImplementedError

    @override
    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    @override
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    @override
    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    @override
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return [self.answer(message) for message in messages]

    def answer(self, message: Message) -> Message:
        """Carry a message to its node, and the reply back."""
        message.metadata.__dict__["_message_id"] = str(uuid4())
        return self.carry(self.reply(self.carry(message)))

    def reply(self, message: Message) -> Message:
        """Return what the client app replies on the node that a message has reached."""
        return self.app(message, self.contexts[message.metadata.dst_node_id])

    def carry(self, message: Message) -> Message:
        """Return a message as it arrives: written as bytes, and read again."""
        return message_from_proto(ProtoMessage.FromString(message_to_proto(message).SerializeToString()))


def virtual_clients(config: RunConfig, count: int) -> dict[int, Context]:
    """Return the contexts of virtual clients by node, as Flower's simulation makes them."""
    return {
        FIRST_NODE + index: context(
            config, node={"partition-id": index, "num-partitions": count}, node_id=FIRST_NODE + index
        )
        for index in range(count)
    }


def context(config: RunConfig, *, node: dict[str, Scalar], node_id: int) -> Context:
    """Return the context of one node."""
    return Context(run_id=RUN_ID, node_id=node_id, node_config=node, state=RecordDict(), run_config=config.to_mapping())
