"""A deployed SuperLink, asked whether it is there and may be trusted, before anything is sent to it."""

import http.client
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from knot_fed.deployment.credentials import WARN_DAYS
from knot_fed.errors import ConfigError, FederationError
from knot_fed.launch.submission import Connection

REACH_SECONDS = 10.0
DAY = 86400.0
NOT_YET_VALID, EXPIRED = 9, 10
OTHER_HOST = {62, 64}
"""OpenSSL's numbers of what can be wrong with a certificate."""


def check_superlink(connection: Connection) -> list[str]:
    """Ask a SuperLink's HTTP API for its health, over TLS unless the connection is insecure.

    Returns
    -------
    warnings
        A sentence for each certificate that expires within 30 days.

    Raises
    ------
    ConfigError
        If the address or the file of root certificates cannot be used.
    FederationError
        If no SuperLink answers, or its certificate is refused.
    """
    host, port = _split(connection.address)
    context = None if connection.insecure else _context(connection)
    request = (
        http.client.HTTPConnection(host, port, timeout=REACH_SECONDS)
        if context is None
        else http.client.HTTPSConnection(host, port, timeout=REACH_SECONDS, context=context)
    )
    try:
        request.request("GET", "/health")
        certificate = request.sock.getpeercert() if isinstance(request.sock, ssl.SSLSocket) else None
        status = request.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise FederationError(_reason(error, connection)) from None
    finally:
        request.close()
    if status != http.client.OK:
        raise FederationError(
            f"{connection.address}: answers, but not as a SuperLink (status {status}); check --superlink"
        )
    warnings = _warnings("the SuperLink's certificate", [certificate or {}])
    if context is not None and connection.root_certificates is not None:
        warnings += _warnings("the authority's certificate", context.get_ca_certs())
    return warnings


def _split(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ConfigError(f"--superlink {address!r} is not host:port; write 127.0.0.1:9093")
    return host, port


def _context(connection: Connection) -> ssl.SSLContext:
    """Trust exactly as Flower's own client does."""
    if connection.root_certificates is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=connection.root_certificates.read_text(encoding="ascii"))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{connection.root_certificates}: no PEM certificate; give the authority's ca.crt") from None
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError(
            f"{connection.root_certificates}: {reason}; give --root-certificates, or --insecure without TLS"
        ) from None
    return context


def _reason(error: Exception, connection: Connection) -> str:
    address = connection.address
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (EXPIRED, NOT_YET_VALID):
            when = "has expired" if error.verify_code == EXPIRED else "is not valid yet"
            return (
                f"{address}: a certificate {when}; run knot-fed credentials renew on the server, and check both clocks"
            )
        if error.verify_code in OTHER_HOST:
            return f"{address}: the SuperLink's certificate names other hosts; use one of them, or renew it with --host"
        return f"{address}: the SuperLink's certificate is not from {_authority(connection)}; give its own ca.crt"
    if isinstance(error, ssl.SSLError):
        return f"{address}: no TLS there; check --superlink, or use --insecure if the SuperLink has no certificate"
    if isinstance(error, ConnectionRefusedError | TimeoutError | socket.gaierror):
        return f"{address}: no SuperLink answers; start it, or check --superlink and the network"
    return f"{address}: no SuperLink without TLS there ({type(error).__name__}); check --superlink, or drop --insecure"


def _authority(connection: Connection) -> str:
    return str(connection.root_certificates) if connection.root_certificates else "an authority of this system"


def _warnings(name: str, certificates: Sequence[Mapping[str, Any]]) -> list[str]:
    ends = [ssl.cert_time_to_seconds(found["notAfter"]) for found in certificates if found]
    days = (min(ends) - time.time()) / DAY if ends else float("inf")
    return [f"{name} expires in {int(days)} day(s); renew it with knot-fed credentials"] if days < WARN_DAYS else []
