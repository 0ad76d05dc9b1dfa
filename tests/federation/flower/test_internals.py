"""What knot_fed uses of Flower beyond its documented API: where, and that the installed Flower still has it.

At an upgrade, run this file first: each failure names what has moved and the line that uses it.
"""

import ast
import importlib
import inspect

import pytest
from flwr.server.superlink.linkstate import InMemoryLinkState
from flwr.superlink import extensions
from flwr.superlink.grid import HttpGrid, InMemoryGrid
from flwr.supernode import start_client_internal

from tests.conftest import ROOT

DOCUMENTED = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy")
OUTSIDE_THE_FOLDER = {
    "flwr.common.constant": {"ErrorCode"},
    "flwr.common.secure_aggregation.crypto.shamir": {"combine_shares", "create_shares"},
    "flwr.common.secure_aggregation.crypto.symmetric_encryption": {"decrypt", "encrypt", "generate_shared_key"},
    "flwr.common.secure_aggregation.secaggplus_utils": {"share_keys_plaintext_concat", "share_keys_plaintext_separate"},
}
"""Constants and primitives of secure aggregation, which hold no state."""
REPLACED = {
    "the app a SuperNode receives": (
        start_client_internal._pull_and_store_message,
        ("state", "object_store", "node_config", "receive", "get_run", "get_fab", "pull_object",
         "confirm_message_received", "trusted_entities"),
    ),
    "how a SuperNode verifies an app": (start_client_internal._verify_fab, ("fab", "trusted_entities")),
    "the middleware of a SuperLink": (extensions.get_middleware, ()),
    "how a server app sends and receives": (HttpGrid.send_and_receive, ("self", "messages", "timeout")),
    "how a server app sends": (HttpGrid.push_messages, ("self", "messages")),
    "how a simulation's server app sends and receives": (
        InMemoryGrid.send_and_receive, ("self", "messages", "timeout")
    ),
    "how a simulation stores a request": (InMemoryLinkState.store_message_ins, ("self", "message")),
    "how a simulation finds a request": (
        InMemoryLinkState.get_message_ins, ("self", "node_id", "limit", "run_id")
    ),
}  # fmt: skip
"""By purpose: a function that knot_fed replaces or overrides, and its parameters."""


def internal_imports():
    """Yield every undocumented name of Flower with its file, syntax tree and line."""
    for file in sorted((ROOT / "knot_fed").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
                for alias in node.names if node.module not in DOCUMENTED else ():
                    yield file.relative_to(ROOT), tree, node.lineno, node.module, alias.name


IMPORTS = list(internal_imports())
NAMES = [pytest.param(*used, id=f"{used[3]}.{used[4]}-in-{used[0].stem}") for used in IMPORTS]


def resolve(module, name):
    loaded = importlib.import_module(module)
    return getattr(loaded, name) if hasattr(loaded, name) else importlib.import_module(f"{module}.{name}")


def calls(tree, name):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def test_flowers_internals_are_used_in_one_folder():
    elsewhere = {}
    for file, _, _, module, name in IMPORTS:
        if "federation/flower" not in file.as_posix():
            elsewhere.setdefault(module, set()).add(name)
    assert elsewhere == OUTSIDE_THE_FOLDER


@pytest.mark.parametrize(("file", "tree", "line", "module", "name"), NAMES)
def test_the_installed_flower_still_has_what_is_used(file, tree, line, module, name):
    try:
        found = resolve(module, name)
    except ImportError as missing:
        pytest.fail(f"{file}:{line}: {module}.{name} has moved: {missing}")
    for call in calls(tree, name):
        keywords = {keyword.arg for keyword in call.keywords if keyword.arg}
        accepted = parameters(found)
        assert accepted is None or keywords <= accepted, f"{file}:{call.lineno}: {name} takes {accepted}"


def parameters(function):
    """Return the names of a function's parameters, or None where it takes any keyword or is not written in Python."""
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    kinds = {parameter.kind for parameter in taken.values()}
    return None if inspect.Parameter.VAR_KEYWORD in kinds else set(taken)


@pytest.mark.parametrize("purpose", REPLACED)
def test_a_replaced_function_still_has_its_parameters(purpose):
    function, expected = REPLACED[purpose]
    assert set(inspect.signature(function).parameters) == set(expected)
