"""A SuperLink that lets clients reach only the Fleet API: `python -m knot_fed.federation.flower.gate`."""

import logging
import socket
import sys

from flwr.superlink import extensions
from flwr.superlink.cli.flower_superlink import flower_superlink
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from knot_fed.runs.log import log_event, log_to

LOOPBACK = frozenset({"127.0.0.1", "::1"})


class OperatorOnly:
    """Answer callers from outside the operator's network on the Fleet API and the health check only.

    Flower serves its Fleet, Control and Runtime APIs on one port. Whoever reaches the Control API can register nodes
    and start runs, whose code then runs on the server and on every client. The address at which a request arrives
    shows the network that it came through: `operator_addresses` and loopback are trusted.
    """

    def __init__(self, app: ASGIApp, operator_addresses: frozenset[str]) -> None:
        self.app = app
        self.trusted = operator_addresses | LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        path = scope.get("path", "")
        allowed = path.startswith("/v1/fleet/") or path == "/health"
        if scope["type"] != "http" or allowed or scope["server"][0] in self.trusted:
            await self.app(scope, receive, send)
            return
        address, _ = scope.get("client") or ("", 0)
        log_event("refused", logging.WARNING, path=path, address=address, reason="not the operator's network")
        await PlainTextResponse("refused: not from the operator's network\n", 403)(scope, receive, send)


def main() -> None:
    """Start `flower-superlink` with the guard; the first argument is this machine's name in the operator's network."""
    log_to()
    operator = sys.argv.pop(1)
    addresses = frozenset(str(address[4][0]) for address in socket.getaddrinfo(operator, None))
    extensions.get_middleware = lambda: (Middleware(OperatorOnly, operator_addresses=addresses),)
    flower_superlink()


if __name__ == "__main__":
    main()
