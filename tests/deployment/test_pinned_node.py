"""A real SuperNode whose owner has pinned the app, and one whose owner has pinned another."""

import sys

import pytest

from knot_fed.federation.flower.pinned_node import app_digest
from tests.deployment.members import ROOT
from tests.deployment.real_federation import federation

pytestmark = pytest.mark.long


def pin(node, digest):
    """Let a SuperNode of these processes run one app only."""
    node.kill()
    node.command[:1] = [sys.executable, "-m", "knot_fed.federation.flower.pinned_node", digest]
    node.start()


def test_a_real_node_runs_the_app_that_its_owner_has_pinned_and_no_other(tmp_path):
    with federation(tmp_path, "phones", "restaurants") as real:
        pin(real.nodes["phones"], app_digest(ROOT))
        pin(real.nodes["restaurants"], "0" * 64)
        run = real.submit({"min-teachers": 1, "teacher.epochs": 1, "distill.epochs": 1, "distill.loss": "mse"})
        ended = run.wait()
        refused = real.nodes["restaurants"].said()
    assert ended.completed, run.text()[-3000:]
    statuses = run.statuses()
    assert statuses.pop("phones") == "ok"
    assert list(statuses.values()) == [
        "refused: its node does not run this app (Flower's error 7); see the client's log"
    ]
    assert f"refused an app of digest {app_digest(ROOT)}, which is not pinned" in refused
    assert "Start `flwr-clientapp` process" not in refused
