"""Runs whose later rounds send only the soft labels that changed (`resend-above`)."""

import numpy as np
import pytest

from knot_fed.federation.server.kept_answers import KeptAnswers
from knot_fed.federation.wire import exchange
from knot_fed.preflight.unread import unread_settings
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from tests.fakes import InProcessGrid, virtual_clients
from tests.federation.server.test_federated_run import folder_of, run, timeless
from tests.federation.server.test_rounds import ROUNDS, answers, recorded

KEYS = ROUNDS | {"rounds": 3, "teacher.start": "student", "weights.scheme": "uniform"}
ABOVE = 0.05


def clients(folder):
    return {client["name"]: client for client in folder.read_summary()["clients"]}


def sent(folder):
    return [{name: told["rows_sent"] for name, told in facts["teachers"].items()} for facts in folder.read_rounds()]


class Restarting(InProcessGrid):
    """Restarts a client before round 2: another node takes its place, with a state that holds nothing."""

    def send_and_receive(self, messages, *, timeout=None):
        replies = super().send_and_receive(messages, timeout=timeout)
        if (
            any(reply.has_content() and exchange.SOFT_LABELS in reply.content for reply in replies)
            and 101 in self.contexts
        ):
            node = self.contexts.pop(101)
            self.contexts[201] = virtual_clients(self.config, 3)[101]
            assert "sent-rows" in node.state
        return replies


@pytest.mark.parametrize("compression", ["none", "uint8"])
def test_fewer_bytes_go_up_and_the_student_stays_close(small, compression):
    keys = KEYS | {"privacy.compression": compression}
    full, _ = run(small(keys), "full")
    less, _ = run(small(keys | {"resend-above": ABOVE}), "less")
    for name, client in clients(less).items():
        assert client["rows_asked"] == clients(full)[name]["rows_sent"] == 3 * sent(full)[0][name]
        assert client["rows_sent"] == sum(round_[name] for round_ in sent(less)) < client["rows_asked"]
        assert client["bytes_up"] < clients(full)[name]["bytes_up"]
    assert sent(less)[0] == sent(full)[0]
    domains = [folder.read_summary()["domains"] for folder in (full, less)]
    for name in domains[0]:
        assert abs(domains[0][name]["after"]["sd"] - domains[1][name]["after"]["sd"]) < 0.2
    pooled = [folder.read_pooled(1) for folder in (full, less)]
    np.testing.assert_array_equal(*pooled)


def test_at_0_nothing_is_held_and_no_request_names_an_answer(small):
    folder, asked = recorded(small(KEYS), "zero")
    assert {exchange.unpack_train_request(message.content).held for message in asked} == {""}
    assert all(client["rows_sent"] == client["rows_asked"] for client in clients(folder).values())


def test_teachers_that_do_not_change_are_sent_once(small):
    keys = KEYS | {"teacher.start": "scratch"}
    full, _ = run(small(keys), "full")
    less, _ = run(small(keys | {"resend-above": 1e-6}), "less")
    assert set(sent(less)[1].values()) == set(sent(less)[2].values()) == {0}
    dropped = ("bytes_up", "bytes_down", "rows_sent")
    told = [timeless(folder.read_summary()) for folder in (full, less)]
    for summary in told:
        summary["clients"] = [{k: v for k, v in c.items() if k not in dropped} for c in summary["clients"]]
    assert told[0] == told[1]
    for number in (1, 2, 3):
        for name, rows in answers(full, number).items():
            np.testing.assert_array_equal(rows, answers(less, number)[name])


def test_a_client_that_restarts_in_the_middle_sends_all_again_and_the_rest_do_not(small):
    config = small(KEYS | {"resend-above": ABOVE})
    grid = Restarting(virtual_clients(config, 3))
    grid.config = config
    folder = RunFolder.create(folder_of(config), "restarted")
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    whole, _ = run(config, "whole")
    texts = sent(whole)[0]["restaurants"]
    assert [round_["restaurants"] for round_ in sent(folder)][:2] == [texts, texts]
    assert sent(folder)[2]["restaurants"] < texts
    assert all(sent(folder)[1][name] == sent(whole)[1][name] < texts for name in ("phones", "hotels"))
    again = [answers(each, 2)["restaurants"].astype(np.float64) for each in (folder, whole)]
    assert np.abs(again[0] - again[1]).sum(axis=1).max() / 2 <= ABOVE + 1e-6


def test_kept_answers_hold_the_whole_and_the_rows_that_were_sent(small):
    folder, _ = run(small(KEYS | {"resend-above": ABOVE}), "kept")
    for number in (1, 2, 3):
        kept = KeptAnswers.load(folder, number)
        assert {name: client.rows_sent for name, client in kept.clients.items()} == sent(folder)[number - 1]
        assert {len(answer.soft_labels) for answer in kept.answers.values()} == {sent(folder)[0]["phones"]}


@pytest.mark.slow
def test_a_resumed_run_asks_for_all_rows_again(small, monkeypatch):
    from tests.federation.server.test_resume import killed_at, resume

    config = small(KEYS | {"resend-above": ABOVE})
    killed_at(config, "killed", checkpoint=1, monkeypatch=monkeypatch)
    folder, _ = resume(config.model_copy(update={"resume": "killed"}))
    first, second, third = (round_["phones"] for round_ in sent(folder))
    assert first == second > third


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"rounds": 3}, True),
        ({"round-texts": "all"}, True),
        ({"rounds": 3, "round-texts": "all"}, False),
    ],
)
def test_the_key_is_told_as_unread_where_no_text_is_asked_twice(small, keys, told):
    said = unread_settings([small(keys | {"resend-above": 0.1})])
    assert ("resend-above = 0.1 has no effect; it needs round-texts = all and rounds above 1" in said) == told
