"""A client must use the name of its node's registered key, if the SuperLink has one."""

import pytest
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import GetNodesResponse

from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.server.nodes import registered_names, shake_hands
from knot_fed.federation.server.roster import Roster
from knot_fed.federation.wire import envelope, exchange
from knot_fed.labels import LabelSpace
from tests.fakes import InProcessGrid, context
from tests.federation.flower.test_bounded_grid import Grid, Store

LABELS = exchange.canonical_labels(LabelSpace.preset("sentiment"))
TRANSFER = TransferSet(("a good book", "a bad book"))


class Federation:
    """Nodes that claim names over an in-process grid, and the roster of a run that welcomes them."""

    def __init__(self, config, *, registered):
        self.config = config
        self.grid = InProcessGrid({}, app=self.answer, registered=registered)
        self.roster = Roster(config, rounds=1)

    def answer(self, message, node):
        ours = exchange.Handshake(envelope.PROTOCOL, LABELS, "", node.node_config["name"])
        return Message(exchange.pack_handshake(ours), reply_to=message)

    def join(self, **names):
        """Let nodes join, each given as `node_7="the name that it claims"`, welcome them, and return the refusals."""
        for node, name in names.items():
            number = int(node.removeprefix("node_"))
            self.grid.contexts[number] = context(self.config, node={"name": name}, node_id=number)
        return self.roster.welcome(self.grid, TRANSFER)

    def leave(self, number):
        del self.grid.contexts[number]

    def places(self):
        return {record.name: record.node_id for record in self.roster.joined()}


@pytest.fixture
def federation(run_config):
    return lambda **registered: Federation(
        run_config(), registered={int(node.removeprefix("node_")): name for node, name in registered.items()}
    )


def test_clients_that_call_themselves_as_their_keys_are_registered_are_admitted(federation):
    one = federation(node_7="phones", node_8="hotels")
    assert one.join(node_7="phones", node_8="hotels") == {}
    assert one.places() == {"phones": 7, "hotels": 8}


def test_a_node_cannot_take_the_name_of_a_client_that_is_away(federation):
    one = federation(node_7="phones", node_9="somebody")
    assert one.join(node_9="phones") == {
        "node 9": "calls itself phones, and its key is registered as somebody; set that name in its node configuration"
    }
    assert one.places() == {}


def test_a_node_cannot_take_the_place_of_a_client_that_left_during_the_run(federation):
    one = federation(node_7="phones", node_9="somebody")
    one.join(node_7="phones")
    one.leave(7)
    assert "registered as somebody" in one.join(node_9="phones")["node 9"]
    assert one.places() == {"phones": 7}
    assert one.roster.present() == []


def test_a_false_claim_does_not_cost_the_client_of_that_name_its_place(federation):
    one = federation(node_7="phones", node_9="somebody")
    assert set(one.join(node_7="phones", node_9="phones")) == {"node 9"}
    assert one.places() == {"phones": 7}


def test_a_name_that_two_keys_bear_is_given_to_neither_while_both_are_there(federation):
    one = federation(node_7="phones", node_9="phones")
    assert set(one.join(node_7="phones", node_9="phones")) == {"node 7", "node 9"}
    assert one.places() == {}


def test_a_new_key_of_the_same_name_takes_the_place_of_the_old_one_that_is_gone(federation):
    one = federation(node_7="phones", node_9="phones")
    one.join(node_7="phones")
    assert "as another node does" in one.join(node_9="phones")["node 9"]
    one = federation(node_7="phones", node_9="phones")
    one.join(node_7="phones")
    one.leave(7)
    assert one.join(node_9="phones") == {}
    assert one.places() == {"phones": 9}


def test_a_node_registered_without_a_name_claims_none_where_others_have_one(federation):
    one = federation(node_7="phones")
    refused = one.join(node_7="phones", node_8="hotels", node_9="phones")
    assert set(refused) == {"node 8", "node 9"}
    assert all("its key is registered without a name" in reason for reason in refused.values())
    assert one.places() == {"phones": 7}


def test_the_owner_of_a_name_takes_it_back_from_a_node_registered_without_one(federation):
    one = federation(node_7="phones")
    assert one.join(node_9="phones") == {}
    assert one.join(node_7="phones") == {}
    assert one.places() == {"phones": 7}


def test_where_no_key_has_a_name_the_claim_stands(federation):
    one = federation()
    assert one.join(node_7="phones", node_8="hotels") == {}
    assert one.places() == {"phones": 7, "hotels": 8}


@pytest.mark.parametrize("name", ["\x1b[31m[bold]x\n" + "y" * 10**6, "../../x", "phones\u202e"])
def test_a_registered_name_of_any_kind_is_told_in_a_short_printable_sentence(federation, name):
    said = federation(node_7=name).join(node_7="phones")["node 7"]
    assert said.startswith("calls itself phones, and its key is registered as ")
    assert said.isprintable()
    assert len(said) < 250


def test_a_node_that_left_since_it_was_listed_is_not_asked_and_may_be_met_later(federation):
    one = federation(node_7="phones")
    ours = exchange.Handshake(envelope.PROTOCOL, LABELS, TRANSFER.fingerprint)
    accepted, refused, silent = shake_hands(one.grid, [7], ours, timeout=1.0)
    assert not accepted
    assert refused == {"node 7": "gave no answer in time; see the client's log"}
    assert silent == {7}
    assert one.grid.wire == []


def test_names_pass_through_the_grid_that_bounds_replies():
    store = Store(None)
    store.GetNodes = lambda request: GetNodesResponse(nodes=[NodeInfo(node_id=7, name="phones"), NodeInfo(node_id=8)])
    grid = Grid(store)
    assert registered_names(grid) == {7: "phones", 8: ""}
