from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.errors import PolicyError
from knot_fed.federation.ledger import Ledger, LedgerEntry
from knot_fed.privacy.policy import ReleasePolicy, check_limits, check_transfer_set, release_soft_labels

ROWS = np.full((4, 2), 0.5, dtype=np.float32)


def release(policy):
    return release_soft_labels(ROWS, confidence=np.zeros(4, dtype=np.float32), examples=9, policy=policy)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_no_limit_is_ever_passed(limit, run, life):
    policy = ReleasePolicy.from_mapping({"max-texts-per-run": limit, "max-texts-in-life": limit})
    allowed = not limit or (run + 4 <= limit and life + 4 <= limit)
    refused = nullcontext() if allowed else pytest.raises(PolicyError, match=f"= {limit} used")
    with refused:
        check_limits(4, policy=policy, released_in_run=run, released_in_life=life)


def test_what_the_owner_keeps_is_not_released():
    policy = ReleasePolicy.from_mapping({"share-example-counts": False, "share-confidences": False})
    kept = release(policy)
    assert kept.examples is None
    assert kept.confidence is None


@pytest.mark.parametrize("mapping", [{"max-text": 1}, {"max-texts-per-run": -1}, {"max-texts-per-run": "many"}])
def test_a_policy_that_cannot_be_read_is_refused(mapping):
    with pytest.raises(PolicyError, match="known keys: max-texts-per-run"):
        ReleasePolicy.from_mapping(mapping)


def test_the_ledger_counts_by_run_and_life_over_restarts(tmp_path):
    for run, texts in (("1", 5), ("2", 7), ("1", 1)):
        Ledger(tmp_path / "state" / "ledger.jsonl").record(LedgerEntry(run, 1, texts))
    ledger = Ledger(tmp_path / "state" / "ledger.jsonl")
    assert ledger.released_in_life() == 13
    assert sum(entry.texts for entry in ledger.entries() if entry.run == "1") == 6


def test_nothing_leaves_when_the_ledger_is_torn(tmp_path):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).record(LedgerEntry("1", 1, texts=5))
    path.write_text(path.read_text() + '{"run": "1", "te')
    with pytest.raises(PolicyError, match="nothing leaves"):
        Ledger(path).released_in_life()


def test_a_ledger_of_an_older_release_still_counts(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"run": "1", "round": 1, "texts": 5}\n')
    Ledger(path).record(LedgerEntry("1", fingerprint="a" * 64))
    assert (Ledger(path).released_in_life(), Ledger(path).transfer_set_of_run("1")) == (5, "a" * 64)


def test_evaluations_of_one_run_do_not_count_in_another(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for run in ("1", "2", "1"):
        ledger.record(LedgerEntry(run, evaluations=1))
    assert (ledger.evaluated_in_run("1"), ledger.released_in_life()) == (2, 0)


@pytest.mark.parametrize("pinned", ["", "a" * 64])
def test_a_run_keeps_the_transfer_set_that_it_began_with(pinned):
    policy = ReleasePolicy.from_mapping({"transfer-fingerprint": pinned})
    check_transfer_set("a" * 64, bound="", policy=policy)
    check_transfer_set("a" * 64, bound="a" * 64, policy=policy)
    with pytest.raises(PolicyError, match="another transfer set"):
        check_transfer_set("b" * 64, bound="a" * 64, policy=policy)
