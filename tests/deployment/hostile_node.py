"""A SuperNode made by hand: it speaks Flower's Fleet API to a real SuperLink, and may send any bytes at all."""

import hashlib
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx
from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.primitives.asymmetric import generate_key_pairs
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor


@dataclass(frozen=True)
class Objects:
    """A reply as the objects that are uploaded, by name; the root is the message."""

    root: str
    children: dict[str, list[str]]
    contents: dict[str, bytes]

    @classmethod
    def of(cls, message):
        nested = get_all_nested_objects(message)
        children = {name: list(item.children or {}) for name, item in nested.items()}
        return cls(
            get_object_tree(message).object_id, children, {name: item.deflate() for name, item in nested.items()}
        )

    def tree(self, name=None):
        name = name or self.root
        return ObjectTree(object_id=name, children=[self.tree(child) for child in self.children[name]])


class Builder:
    """Makes objects by hand, from their kind, their children and their body."""

    def __init__(self):
        self.children, self.contents = {}, {}

    def add(self, kind, body, *children):
        content = f"{kind} {','.join(children)} {len(body)}".encode() + HEAD_BODY_DIVIDER + body
        name = hashlib.sha256(content).hexdigest()
        self.children[name], self.contents[name] = list(children), content
        return name

    def built(self, root):
        return Objects(root, self.children, self.contents)


@dataclass
class HostileNode:
    """Joins under a name and answers by `answer(message, name)`, until it is stopped.

    `answer` returns records, an error, a message, or Objects; several of them, in a list, are sent one after another.
    """

    address: str
    name: str
    answer: object
    refused: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    node_id: int = 0

    def __post_init__(self):
        self.stopped = threading.Event()
        self.joined = threading.Event()
        self.keys = generate_key_pairs()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self.thread.start()
        assert self.joined.wait(timeout=180), f"{self.name} did not join"
        return self

    def stop(self):
        self.stopped.set()
        self.thread.join(timeout=30)

    def metadata(self, to, **changes):
        facts = {
            "run_id": to.metadata.run_id, "message_id": "", "src_node_id": self.node_id,
            "dst_node_id": to.metadata.src_node_id, "reply_to_message_id": to.metadata.message_id, "group_id": "",
            "created_at": time.time(), "ttl": 600.0, "message_type": to.metadata.message_type,
        }  # fmt: skip
        return Metadata(**{**facts, **changes})

    def reply(self, to, content, **changes):
        """Return a reply of these records, or of an error, whose metadata may lie."""
        if isinstance(content, Error):
            return make_message(metadata=self.metadata(to, **changes), error=content)
        return make_message(metadata=self.metadata(to, **changes), content=content)

    def push(self, message, objects, *, upload=True):
        """Send a message whose objects are these; notes what the SuperLink would not store."""
        message.metadata.__dict__["_message_id"] = objects.root
        wanted, session = self._send(message, objects.tree(), 0.1)
        if not wanted:
            self.refused.append(f"reply to {message.metadata.reply_to_message_id[:12] or 'nothing'}")
        for name in sorted(wanted) if upload else ():
            self._push_object(message.metadata.run_id, session, name, objects.contents[name])

    def pull_as(self, node_id):
        """Ask for the messages of another node, signed with this node's own key; returns the status code."""
        client = FleetHttpClient.from_server_address(
            self.address, True, None, interceptors=[NodeAuthHttpInterceptor(*self.keys)]
        )
        with client:
            try:
                client.PullMessages(PullMessagesRequest(node=Node(node_id=node_id)))
            except httpx.HTTPStatusError as error:
                return error.response.status_code
        return 200

    def _run(self):
        with ExitStack() as stack:
            connection = http_request_response(self.address, insecure=True, authentication_keys=None)
            self.node_id, receive, self._send, _, _, pull, self._push_object, confirm = stack.enter_context(connection)
            self.joined.set()
            while not self.stopped.wait(0.3):
                try:
                    received = receive()
                    if received is not None:
                        self._handle(*received, pull, confirm)
                except (Exception, RunNotRunningException) as error:
                    self.failures.append(repr(error))

    def _handle(self, instruction, tree, pull, confirm):
        run = instruction.metadata.run_id
        message = pull_and_inflate_object_from_tree(
            tree, lambda name: pull(run, name), lambda name: confirm(run, name), return_type=Message
        )
        message.metadata.__dict__["_message_id"] = instruction.metadata.message_id
        answers = self.answer(message, self)
        for answer in answers if isinstance(answers, list) else [answers]:
            if callable(answer):
                answer()
            elif isinstance(answer, Objects):
                self.push(self.reply(message, RecordDict()), answer)
            else:
                made = answer if isinstance(answer, Message) else self.reply(message, answer)
                self.push(made, Objects.of(made))
