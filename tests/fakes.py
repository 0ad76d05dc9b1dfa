"""An in-process grid: real Flower messages, as bytes, between the real apps."""

from dataclasses import dataclass, field
from uuid import uuid4

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from knot_fed import client_app

RUN_ID = 7


@dataclass
class InProcessGrid(Grid):
    """Carries messages to client apps as serialised bytes, which it keeps.

    `order` sorts each batch of replies; `tamper` may change a reply; silent nodes never answer; `registered` holds the
    names that the SuperLink knows nodes' keys by.
    """

    contexts: dict[int, Context]
    app: ClientApp = field(default_factory=lambda: client_app.app)
    order: object = staticmethod(lambda replies: replies)
    tamper: object = staticmethod(lambda reply: reply)
    silent: tuple[int, ...] = ()
    registered: dict[int, str] = field(default_factory=dict)
    wire: list[bytes] = field(default_factory=list)

    def __post_init__(self):
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, 1, 1

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        raise NotImplementedError

    def push_messages(self, messages):
        raise NotImplementedError

    def pull_messages(self, message_ids):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self.contexts)

    def get_nodes(self):
        return [NodeInfo(node_id=node, name=self.registered.get(node)) for node in self.get_node_ids()]

    def send_and_receive(self, messages, *, timeout=None):
        replies = [self._answer(message) for message in messages if message.metadata.dst_node_id not in self.silent]
        return self.order(replies)

    def _answer(self, message):
        message.metadata.__dict__["_message_id"] = str(uuid4())
        received = self._carried(message)
        reply = self.app(received, self.contexts[message.metadata.dst_node_id])
        return self._carried(self.tamper(reply))

    def _carried(self, message):
        sent = message_to_proto(message).SerializeToString()
        self.wire.append(sent)
        return message_from_proto(ProtoMessage.FromString(sent))


def virtual_clients(config, count):
    """Return contexts as the simulation makes them."""
    return {
        100 + index: context(config, node={"partition-id": index, "num-partitions": count}, node_id=100 + index)
        for index in range(count)
    }


def context(config, *, node, node_id):
    """Return one node's context."""
    return Context(run_id=RUN_ID, node_id=node_id, node_config=node, state=RecordDict(), run_config=config.to_mapping())
