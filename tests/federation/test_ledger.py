import json
import math
import multiprocessing

import pytest

from knot_fed.errors import PolicyError
from knot_fed.federation.ledger import Ledger, LedgerEntry
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.policy import life_epsilon


def private(run="7", texts=10, answer="a", noise=20.0):
    return LedgerEntry(run, 1, texts, "gaussian", "client", 1.0, 1e-5, answer, NoiseEvent(noise, texts))


def charge(path, *entries):
    for entry in entries:
        Ledger(path).charge(lambda before, entry=entry: entry)


def spent(entries):
    return life_epsilon([entry.noise for entry in entries], 1e-5)


def test_a_ledger_cut_at_any_byte_never_counts_too_little(tmp_path):
    whole = tmp_path / "whole.jsonl"
    charge(whole, private(), private(texts=3, noise=7.0), private(texts=5, answer="b"))
    content, cut = whole.read_bytes(), tmp_path / "cut.jsonl"
    for length in range(len(content) + 1):
        cut.write_bytes(content[:length])
        complete = [LedgerEntry.from_json(line) for line in content[:length].decode().split("\n")[:-1]]
        try:
            counted = Ledger(cut).entries()
        except PolicyError:
            continue
        assert sum(e.texts for e in counted) >= sum(e.texts for e in complete)
        assert spent(counted) >= spent(complete)


def test_nothing_is_written_after_a_cut_line_and_a_missing_end_of_line_is_mended(tmp_path):
    path = tmp_path / "ledger.jsonl"
    charge(path, private(), private())
    path.write_bytes(path.read_bytes()[:-1])
    charge(path, private())
    assert len(Ledger(path).entries()) == 3
    torn = path.read_bytes()[:-9]
    path.write_bytes(torn)
    with pytest.raises(PolicyError, match=r"ledger\.jsonl: a line of the ledger cannot be read"):
        charge(path, private())
    assert path.read_bytes() == torn


def test_a_refused_release_is_not_written(tmp_path):
    path = tmp_path / "ledger.jsonl"

    def refuse(before):
        raise PolicyError("no")

    charge(path, private())
    with pytest.raises(PolicyError, match="no"):
        Ledger(path).charge(refuse)
    assert len(Ledger(path).entries()) == 1


def test_entries_come_back_as_they_were_written_over_restarts(tmp_path):
    path = tmp_path / "state" / "ledger.jsonl"
    entries = [private(), LedgerEntry("8", 2, 4)]
    charge(path, *entries)
    assert Ledger(path).entries() == entries


def test_lines_of_before_there_were_mechanisms_count_as_releases_without_a_guarantee(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text(json.dumps({"run": "1", "round": 1, "texts": 5}) + "\n")
    assert Ledger(path).entries() == [LedgerEntry("1", 1, 5)]
    assert math.isinf(spent(Ledger(path).entries()))


@pytest.mark.parametrize(
    "line",
    ['{"run": "1"}', "12", '{"run": "1", "round": 1, "texts": -5}', '{"run": 1, "round": 1, "texts": 5, "x": 1}'],
)
def test_a_line_that_is_no_release_stops_everything(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(PolicyError, match="nothing leaves"):
        Ledger(path).entries()


def test_a_record_level_mechanism_promises_the_whole_client_nothing():
    teacher = LedgerEntry("7", 1, 10, "dp-sgd", "record", 8.0, 1e-5, "a", NoiseEvent(1.0, 400, 0.05))
    assert teacher.event("record") == teacher.noise
    assert teacher.event("client") is None
    assert private().event("record") == private().event("client") == NoiseEvent(20.0, 10)


def take_one_of_three(path):
    def decide(before):
        if len(before) >= 3:
            raise PolicyError("spent")
        return private()

    try:
        Ledger(path).charge(decide)
    except PolicyError:
        return 0
    return 1


def test_two_processes_never_spend_the_same_budget_twice(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        taken = pool.map(take_one_of_three, [tmp_path / "ledger.jsonl"] * 8)
    assert sum(taken) == 3
