"""A wire tap between SuperNodes and a SuperLink without TLS: forwards all bytes, and keeps what the nodes sent."""

import socket
import threading
from contextlib import closing, suppress
from dataclasses import dataclass, field

import h11

from tests.deployment.members import free_port


@dataclass
class Recorder:
    """Listens on `port` while the block lasts.

    Parameters
    ----------
    target
        Port of the SuperLink.
    """

    target: int
    port: int = field(default_factory=free_port)
    sent: list[bytearray] = field(default_factory=list)

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def requests(self):
        """Return path and body of every request that the nodes sent, by connection; every byte belongs to one."""
        return [request for stream in self.sent for request in parsed(bytes(stream))]

    def _accept(self):
        with suppress(OSError):
            while True:
                node, _ = self._listener.accept()
                superlink = socket.create_connection(("127.0.0.1", self.target))
                self.sent.append(bytearray())
                threading.Thread(target=forward, args=(node, superlink, self.sent[-1]), daemon=True).start()
                threading.Thread(target=forward, args=(superlink, node, bytearray()), daemon=True).start()


def forward(source, sink, kept):
    with suppress(OSError), closing(source), closing(sink):
        while data := source.recv(65536):
            kept += data
            sink.sendall(data)


def parsed(stream):
    connection, requests, body = h11.Connection(h11.SERVER), [], b""
    connection.receive_data(stream)
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            path, body = event.target.decode(), b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            requests.append((path, body))
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        else:
            assert event is h11.NEED_DATA
            return requests
