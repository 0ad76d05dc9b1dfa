"""Register nodes with a SuperLink.

`flwr supernode register` of Flower 1.41 exits 0 when it refuses a key, and neither it nor `flwr supernode list` reports
under which name a key is registered, so a wrong name or a second node of one name would pass unnoticed.
"""

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from knot_fed.errors import CredentialsError, FederationError
from knot_fed.federation.wire.checks import cut_printable


def register_nodes(keys: Mapping[str, ec.EllipticCurvePublicKey], *, superlink: str, authority: Path) -> dict[str, str]:
    """Register each node that the SuperLink does not know; safe to repeat.

    Parameters
    ----------
    keys
        Public key by the node's name.
    superlink
        Address, as `host:port`.
    authority
        Certificate that the SuperLink's own is checked against.

    Returns
    -------
    outcomes
        What was done, by the node's name.

    Raises
    ------
    CredentialsError
        If the authority's certificate is missing.
    FederationError
        If the SuperLink does not answer, is not the one that the authority vouches for, or refuses.
    """
    public = {name: public_key_to_bytes(key) for name, key in keys.items()}
    try:
        trusted = authority.read_bytes()
    except OSError:
        raise CredentialsError(f"{authority}: is missing; make it with knot-fed credentials init") from None
    try:
        with ControlHttpClient.from_server_address(
            superlink, insecure=False, root_certificates=trusted,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        ) as control:  # fmt: skip
            known = list(control.ListNodes(ListNodesRequest()).nodes_info)
            return {name: _register(control, name, key, known) for name, key in public.items()}
    except (httpx.HTTPError, ssl.SSLError) as error:
        raise FederationError(f"{superlink}: registration failed ({error}); see the SuperLink's log") from None


def _register(control: ControlHttpClient, name: str, key: bytes, known: Sequence[NodeInfo]) -> str:
    """Register one key under its name, by which alone its node may call itself in a run."""
    node = next((node for node in known if node.public_key == key), None)
    if node is not None and node.status == NodeStatus.UNREGISTERED:
        return "was unregistered, and Flower takes no key twice; give the node a new one"
    if node is not None and node.name != name:
        other = cut_printable(node.name, 64) or "a node without a name"
        return f"known already as {other}, and Flower renames no node; unregister it and give it a new key"
    if node is not None:
        return "known already"
    twins = [node for node in known if node.name == name and node.status != NodeStatus.UNREGISTERED]
    made = control.RegisterNode(RegisterNodeRequest(public_key=key, name=name)).node_id
    return f"registered as node {made}" + "".join(f"; unregister node {twin.node_id} of this name" for twin in twins)
