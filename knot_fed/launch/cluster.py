"""A Ray cluster that runs the virtual clients, instead of this machine alone."""

import socket

from knot_fed.errors import ConfigError, shown

RAY_ADDRESS = "RAY_ADDRESS"
"""The variable that Ray reads; Flower passes it no address."""
ANSWER_SECONDS = 10.0


def check_ray_address(address: str) -> None:
    """Raise ConfigError unless the address is `HOST:PORT` of a host that accepts connections.

    Empty is no cluster, and `auto` the one that Ray finds on this machine.
    """
    if address in ("", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host.strip("[]") or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"--ray-address {shown(address)} (or the variable RAY_ADDRESS): is not HOST:PORT, as `ray start --head`"
            " prints it; write such as 10.0.0.1:6379"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"--ray-address {address}: nothing answers there ({error.strerror or 'timed out'}); start the cluster with"
            " ray start --head, or leave the option out and unset RAY_ADDRESS"
        ) from None
