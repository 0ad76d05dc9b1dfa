"""Owners' policies against a run that asks for too much, on a real SuperLink and real SuperNodes with TLS."""

import pytest

from knot_fed.privacy.ledger.ledger import Ledger
from tests.deployment.real_federation import federation
from tests.deployment.review_files import TEXTS

OK = "ok"
POLICIES = {
    "phones": ('require = ["dp-sgd", "pate"]\n', "privacy.mechanism = 'none' is less than the policy asks"),
    "restaurants": (f"max-texts-per-run = {TEXTS - 1}\n", f"{TEXTS} texts asked with 0 of max-texts-per-run"),
    "hotels": (f"max-texts-per-run = {TEXTS}\n", OK),
}


@pytest.mark.long
def test_owners_refuse_what_goes_beyond_their_policy_before_anything_is_trained(tmp_path):
    with federation(tmp_path, tls=True) as real:
        for name, (policy, _) in POLICIES.items():
            real.start_node(name, policy=policy)
        run = real.submit(wait_for=3, min_teachers=1)
        assert run.wait().completed, run.text()
        for name, (_, expected) in POLICIES.items():
            state, status = real.folder / name / "state", run.statuses()[name]
            assert expected in status
            assert (state / "teachers").exists() == (status == OK)
            told = sum(entry.texts for entry in Ledger(state).entries())
            assert told == (TEXTS if status == OK else 0)
        print(run.statuses())  # noqa: T201
