"""A network that a test can take down: a TCP proxy on loopback in front of a SuperLink."""

import socket
import threading
from contextlib import contextmanager, suppress

CHUNK = 4096


class Proxy:
    """Forwards connections to a port; while it is down, bytes wait, and new connections get no answer.

    Parameters
    ----------
    target
        Port of the SuperLink.
    """

    def __init__(self, target):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._up = threading.Event()
        self._up.set()
        self._limit, self._cut = None, lambda: None
        threading.Thread(target=self._accept, daemon=True).start()

    def drop(self):
        self._up.clear()

    def restore(self):
        self._up.set()

    def cut_upload(self, after, action):
        """Forward so many more bytes to the SuperLink, then none, and call the action once."""
        self._limit, self._cut = after, action

    def close(self):
        self._up.set()
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near):
        self._up.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()
            return
        threading.Thread(target=self._forward, args=(near, far, True), daemon=True).start()
        self._forward(far, near, False)

    def _forward(self, source, sink, upload):
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                self._up.wait()
                if upload and self._limit is not None:
                    self._limit -= len(chunk)
                    if self._limit < 0:
                        self._limit, cut = None, self._cut
                        cut()
                        break
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def proxy(target):
    running = Proxy(target)
    try:
        yield running
    finally:
        running.close()
