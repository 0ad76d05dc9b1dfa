"""The package's in-process grid, which also keeps the bytes, loses nodes and changes replies."""

from dataclasses import dataclass, field
from functools import partial

from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.proto.node_pb2 import NodeInfo

from knot_fed import client_app
from knot_fed.federation.flower import in_process

RUN_ID = 7
context = partial(in_process.context, run_id=RUN_ID)
virtual_clients = partial(in_process.virtual_clients, run_id=RUN_ID)


@dataclass
class InProcessGrid(in_process.InProcessGrid):
    """Carries messages to client apps as serialised bytes, which it keeps.

    `order` sorts each batch of replies; `tamper` may change a reply; silent nodes never answer; `registered` holds the
    names that the SuperLink knows nodes' keys by.
    """

    app: ClientApp = field(default_factory=lambda: client_app.app)
    order: object = staticmethod(lambda replies: replies)
    tamper: object = staticmethod(lambda reply: reply)
    silent: tuple[int, ...] = ()
    registered: dict[int, str] = field(default_factory=dict)
    wire: list[bytes] = field(default_factory=list)

    def get_nodes(self):
        return [NodeInfo(node_id=node, name=self.registered.get(node)) for node in self.get_node_ids()]

    def send_and_receive(self, messages, *, timeout=None):
        replies = [self.answer(message) for message in messages if message.metadata.dst_node_id not in self.silent]
        return self.order(replies)

    def reply(self, message):
        return self.tamper(super().reply(message))

    def carry(self, message):
        self.wire.append(message_to_proto(message).SerializeToString())
        return super().carry(message)
