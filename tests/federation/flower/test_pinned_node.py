"""A node runs only apps that its owner has pinned: Flower's SuperNode code, without a network."""

import hashlib
import subprocess
import sys
import time

import pytest
from flwr.app import Metadata, RecordDict
from flwr.app.message import make_message
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate import NodeStateFactory
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.errors import ConfigError
from knot_fed.federation.flower.pinned_node import app_digest, pin_apps, read_pins
from knot_fed.launch.bundle import stage_app
from tests.conftest import ROOT

RUN, NODE = 7, 100


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The bundle that `flwr run` sends for the staged app."""
    return build_fab_from_disk(stage_app(ROOT, tmp_path_factory.mktemp("staged") / "app"))


@pytest.fixture
def node(monkeypatch):
    """A SuperNode's state, and how it handles a message of a run with this bundle."""
    for name in ("_pull_and_store_message", "_verify_fab"):
        monkeypatch.setattr(start_client_internal, name, getattr(start_client_internal, name))
    stores = ObjectStoreFactory()
    state = NodeStateFactory(objectstore_factory=stores).state()
    state.set_node_id(NODE)

    def receive(content, *, verifications=None):
        facts = {
            "run_id": RUN, "message_id": "", "src_node_id": SUPERLINK_NODE_ID, "dst_node_id": NODE,
            "reply_to_message_id": "", "group_id": "", "created_at": time.time(), "ttl": 60.0, "message_type": "query",
        }  # fmt: skip
        message = make_message(metadata=Metadata(**facts), content=RecordDict())
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
        fab = Fab(hashlib.sha256(content).hexdigest(), content, verifications or {})
        start_client_internal._pull_and_store_message(
            state=state, object_store=stores.store(), node_config={}, trusted_entities=None,
            receive=lambda: (message, get_object_tree(message)), get_run=Run.create_empty,
            get_fab=lambda fab_hash, run: fab, pull_object=lambda run, name: objects[name],
            confirm_message_received=lambda run, name: None,
        )  # fmt: skip
        replies = state.get_messages_legacy(is_reply=True)
        return state.get_run(RUN), [reply.error.code for reply in replies if not reply.has_content()]

    return receive


def test_a_pinned_app_is_taken(node, bundle):
    pin_apps({hashlib.sha256(bundle).hexdigest()})
    run, errors = node(bundle)
    assert run is not None
    assert errors == []


@pytest.mark.parametrize("verifications", [{}, {"valid_license": "Valid"}, {"pinned": "{}"}, {"valid_license": ""}])
def test_an_app_that_is_not_pinned_is_answered_by_an_error_and_never_kept(node, bundle, verifications, caplog):
    pin_apps({"0" * 64})
    run, errors = node(bundle, verifications=verifications)
    assert run is None
    assert errors == [ErrorCode.INVALID_FAB]
    assert hashlib.sha256(bundle).hexdigest() in caplog.text


def test_one_changed_byte_is_another_app(node, bundle):
    pin_apps({hashlib.sha256(bundle).hexdigest()})
    assert node(bundle[:-1] + bytes([bundle[-1] ^ 1])) == (None, [ErrorCode.INVALID_FAB])


def test_without_a_pin_flower_takes_any_app(node, bundle):
    run, errors = node(bundle)
    assert run is not None
    assert errors == []


def test_the_digest_that_an_owner_prints_is_that_of_the_bundle_that_is_sent(bundle):
    assert app_digest(ROOT) == hashlib.sha256(bundle).hexdigest()
    printed = CliRunner().invoke(app, ["client", "digest", "--app", str(ROOT)])
    assert printed.output.strip() == hashlib.sha256(bundle).hexdigest()


def test_pins_are_digests_and_nothing_else():
    assert read_pins("") == frozenset()
    assert read_pins(f"{'A' * 64}, {'b' * 64}") == {"a" * 64, "b" * 64}
    for text in ("a" * 63, "--superlink", "../x", f"{'a' * 64};{'b' * 64}"):
        with pytest.raises(ConfigError, match="not a hexadecimal SHA-256"):
            read_pins(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--superlink", "x"], "the pinned app is not a hexadecimal SHA-256"),
        (["a" * 64, "--trusted-entities=x.yaml"], "--trusted-entities cannot be combined with a pinned app"),
    ],
)
def test_a_node_that_is_started_wrongly_says_so_in_one_sentence(arguments, said):
    command = [sys.executable, "-m", "knot_fed.federation.flower.pinned_node", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"knot_fed: {said}")
    assert done.stderr.count("\n") == 1
