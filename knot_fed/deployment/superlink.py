"""Check that a deployed SuperLink answers and is trusted, before anything is sent to it."""

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
"""OpenSSL's numbers of verification errors."""


def check_superlink(connection: Connection) -> list[str]:
    """Request the health of a SuperLink's HTTP API; return a warning for each certificate that expires in 30 days.

    Raises
    ------
    ConfigError
        If the address or the file of root certificates is invalid.
    FederationError
        If no SuperLink answers, or its certificate is not trusted.
    """
    host, port = _split(connection.address)
    context = None if connection.insecure else _context(connection)
    request = (
        http.client.HTTPSConnection(host, port, timeout=REACH_SECONDS, context=context)
        if context
        else http.client.HTTPConnection(host, port, timeout=REACH_SECONDS)
    )
    try:
        request.request("GET", "/health")
        certificate = request.sock.getpeercert() if isinstance(request.sock, ssl.SSLSocket) else None
        status = request.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise FederationError(f"{connection.address}: {_reason(error, connection)}") from None
    finally:
        request.close()
    if status != http.client.OK:
        raise FederationError(
            f"{connection.address}: answers, but not as a SuperLink (status {status}); check --superlink"
        )
    warnings = _warnings("the SuperLink's certificate", [certificate or {}])
    if context and connection.root_certificates:
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
    """Trust the same certificates as Flower's client."""
    file = connection.root_certificates
    if file is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=file.read_text(encoding="ascii"))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{file}: not a PEM certificate; give the authority's ca.crt") from None
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError(f"{file}: {reason}; give --root-certificates, or --insecure without TLS") from None
    return context


def _reason(error: Exception, connection: Connection) -> str:
    """Explain why the request failed, with a remedy."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (EXPIRED, NOT_YET_VALID):
            when = "has expired" if error.verify_code == EXPIRED else "is not valid yet"
            return f"a certificate {when}; run knot-fed credentials renew on the server, and check both clocks"
        if error.verify_code in OTHER_HOST:
            return "the SuperLink's certificate names other hosts; use one of them, or renew it with --host"
        authority = connection.root_certificates or "an authority of this system"
        return f"the SuperLink's certificate is not from {authority}; give its own ca.crt"
    if isinstance(error, ssl.SSLError):
        return "no TLS there; check --superlink, or use --insecure if the SuperLink has no certificate"
    if isinstance(error, ConnectionRefusedError | TimeoutError | socket.gaierror):
        return "no SuperLink answers; start it, or check --superlink and the network"
    return f"no SuperLink answers without TLS ({type(error).__name__}); check --superlink, or drop --insecure"


def _warnings(name: str, certificates: Sequence[Mapping[str, Any]]) -> list[str]:
    ends = [ssl.cert_time_to_seconds(found["notAfter"]) for found in certificates if found]
    days = (min(ends) - time.time()) / DAY if ends else float("inf")
    return [f"{name} expires in {int(days)} day(s); renew it with knot-fed credentials"] if days < WARN_DAYS else []
