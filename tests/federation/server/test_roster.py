from dataclasses import dataclass, field

import pytest

from knot_fed.errors import FederationError
from knot_fed.federation.server import collecting
from knot_fed.privacy.ledger.ledger import Ledger
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from tests.fakes import InProcessGrid, virtual_clients
from tests.federation.server.test_federated_run import folder_of

pytestmark = pytest.mark.slow

KEYS = {"rounds": 2, "teacher.epochs": 1, "distill.epochs": 1, "student.pretrain": False}


@dataclass
class ChangingGrid(InProcessGrid):
    """Nodes join and leave after the answers of a phase, given by its kind and number."""

    after: object = staticmethod(lambda grid, kind, count: None)
    phases: list[str] = field(default_factory=list)

    def send_and_receive(self, messages, *, timeout=None):
        kinds = {message.metadata.message_type for message in messages}
        replies = super().send_and_receive(messages, timeout=timeout)
        for kind in kinds:
            self.phases.append(kind)
            self.after(self, kind, self.phases.count(kind))
        return replies


def run(config, nodes, **options):
    grid = ChangingGrid(nodes, **options)
    folder = RunFolder.create(folder_of(config), "run")
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    return folder, grid


def teachers(folder):
    return [line["teachers"] for line in folder.read_rounds()]


def statuses(folder):
    return {client["name"]: client["status"] for client in folder.read_summary()["clients"]}


def test_a_client_that_joins_late_takes_part_from_the_next_round_on(small):
    config = small(keys=KEYS)
    nodes = virtual_clients(config, 3)
    late = nodes.pop(102)

    def joins(grid, kind, count):
        if (kind, count) == ("train", 1):
            grid.contexts[102] = late

    folder, _ = run(config, nodes, after=joins)
    assert [set(round_) for round_ in teachers(folder)] == [
        {"phones", "restaurants"},
        {"phones", "restaurants", "hotels"},
    ]
    assert set(statuses(folder).values()) == {"ok"}


def test_a_restarted_node_takes_its_clients_place_again_with_its_teacher(small):
    config = small(keys=KEYS)

    def restarts(grid, kind, count):
        if (kind, count) == ("train", 1):
            grid.contexts[201] = grid.contexts.pop(101)

    folder, _ = run(config, virtual_clients(config, 3), after=restarts)
    assert teachers(folder)[1]["restaurants"]["reused"]
    assert statuses(folder) == {"phones": "ok", "restaurants": "ok", "hotels": "ok"}


def test_a_newcomer_does_not_take_the_place_of_a_client_that_still_answers(small):
    config = small(keys=KEYS)

    def claims(grid, kind, count):
        if (kind, count) == ("train", 1):
            grid.contexts[201] = virtual_clients(config, 3)[101]

    folder, _ = run(config, virtual_clients(config, 3), after=claims)
    assert statuses(folder)["restaurants"] == "ok"
    assert "as another node does" in statuses(folder)["node 201"]


def test_a_newcomer_takes_the_place_of_a_client_that_is_listed_but_dead(small):
    config = small(keys=KEYS)

    def dies(grid, kind, count):
        if (kind, count) == ("train", 1):
            grid.silent = (101,)
            grid.contexts[201] = virtual_clients(config, 3)[101]

    folder, _ = run(config, virtual_clients(config, 3), after=dies)
    assert set(teachers(folder)[1]) == {"phones", "restaurants", "hotels"}
    assert statuses(folder)["restaurants"] == "ok"


def test_a_client_that_is_gone_is_not_asked_and_told_as_away(small):
    config = small(keys=KEYS)

    def leaves(grid, kind, count):
        if (kind, count) == ("train", 1):
            del grid.contexts[101]

    folder, _ = run(config, virtual_clients(config, 3), after=leaves)
    assert set(teachers(folder)[1]) == {"phones", "hotels"}
    assert statuses(folder)["restaurants"].startswith("away")


def test_where_too_few_answered_the_rest_are_asked_again(small, monkeypatch):
    monkeypatch.setattr(collecting, "POLL_SECONDS", 0.0)
    config = small(keys=KEYS | {"min-teachers": 3, "rounds": 1})

    def wakes(grid, kind, count):
        if kind == "evaluate":
            grid.silent = (101,)
        if (kind, count) == ("train", 1):
            grid.silent = ()

    folder, grid = run(config, virtual_clients(config, 3), after=wakes)
    assert set(teachers(folder)[0]) == {"phones", "restaurants", "hotels"}
    assert grid.phases.count("train") == 2
    assert Ledger(folder.path.parent.parent / "state" / "phones").released_in_life() == 400


def test_a_round_that_stays_short_of_answers_ends_the_run_with_a_sentence(small, monkeypatch):
    monkeypatch.setattr(collecting, "POLL_SECONDS", 0.0)
    config = small(keys=KEYS | {"min-teachers": 3, "rounds": 1})

    def falls_silent(grid, kind, count):
        if kind == "evaluate":
            grid.silent = (101,)

    with pytest.raises(FederationError, match="2 client\\(s\\) answered round 1, min-teachers is 3"):
        run(config, virtual_clients(config, 3), after=falls_silent)
