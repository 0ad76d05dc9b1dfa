"""Register nodes with a SuperLink."""

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
    """Register the public key of each named node that the SuperLink does not know; safe to repeat.

    The certificate `authority` verifies the SuperLink, at `host:port`. Returns the outcome by node name, as a phrase.
    Raises CredentialsError if the authority's certificate is missing, and FederationError if the SuperLink does not
    answer, is not certified by the authority, or refuses.
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
    """Register one key under the only name that its node may use in a run."""
    node = next((node for node in known if node.public_key == key), None)
    if node is not None and node.status == NodeStatus.UNREGISTERED:
        return "was unregistered, and Flower accepts no key twice; create a new one for the node"
    if node is not None and node.name != name:
        other = cut_printable(node.name, 64) or "a node without a name"
        return f"known already as {other}, and Flower renames no node; unregister it and give it a new key"
    if node is not None:
        return "known already"
    twins = [node for node in known if node.name == name and node.status != NodeStatus.UNREGISTERED]
    made = control.RegisterNode(RegisterNodeRequest(public_key=key, name=name)).node_id
    return f"registered as node {made}" + "".join(f"; unregister node {twin.node_id} of this name" for twin in twins)
