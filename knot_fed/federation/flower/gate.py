"""A SuperLink that lets clients reach only the Fleet API: `python -m knot_fed.federation.flower.gate`.

Flower 1.41 documents no hook for middleware, so this sets `extensions.get_middleware`; a reverse proxy would hold the
server's TLS key in another image, and check its own parse of the path instead of the one that the SuperLink routes.
"""

import logging
import socket
import sys

from flwr.superlink import extensions
from flwr.superlink.cli.flower_superlink import flower_superlink
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from knot_fed.runs.log import log_event, log_to

FLEET = "/v1/fleet/"
HEALTH = "/health"
LOOPBACK = frozenset({"127.0.0.1", "::1"})


class OperatorOnly:
    """Answer a caller from a client's network on the Fleet API and the health check only.

    Flower serves its Fleet, Control and Runtime API on one port, and the Control API lets whoever reaches it register
    nodes and start runs, whose code then runs on the server and on every client. Which network a caller came by is
    told by the address at which it arrived.

    Parameters
    ----------
    app
        The SuperLink's application.
    operator_addresses
        This machine's own addresses in the operator's network; the loopback addresses count among them.
    """

    def __init__(self, app: ASGIApp, operator_addresses: frozenset[str]) -> None:
        self.app = app
        self.trusted = operator_addresses | LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or self._may_pass(scope):
            await self.app(scope, receive, send)
            return
        address, _ = scope.get("client") or ("", 0)
        log_event("refused", logging.WARNING, path=scope["path"], address=address, reason="not the operator's network")
        await PlainTextResponse("refused: not from the operator's network\n", 403)(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        path = scope["path"]
        return path.startswith(FLEET) or path == HEALTH or scope["server"][0] in self.trusted


def main() -> None:
    """Start `flower-superlink` with the guard; the first argument is this machine's name in the operator's network."""
    log_to()
    operator = sys.argv.pop(1)
    addresses = frozenset(str(address[4][0]) for address in socket.getaddrinfo(operator, None))
    extensions.get_middleware = lambda: (Middleware(OperatorOnly, operator_addresses=addresses),)
    flower_superlink()


if __name__ == "__main__":
    main()
