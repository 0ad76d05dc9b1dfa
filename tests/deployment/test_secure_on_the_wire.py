"""A secure sum of five real nodes, one of which is killed when its masks are already on the others' values."""

import numpy as np
import pytest

from tests.deployment.real_federation import federation

NODES = {"phones": "phones", "restaurants": "restaurants", "hotels": "hotels", "forum-b": "books", "phones-b": "phones"}
POOLED = {"distill.objective": "pooled", "weights.scheme": "uniform", "student.pretrain": True}
SECURE = POOLED | {"privacy.secure-sum": True, "privacy.sum-bits": 24}
SLOW_TEACHERS = {"teacher.epochs": 40, "teacher.patience": 40}


def pooled(run):
    return np.load(run.folder / "pooled-soft-labels-1.npy")


def completed(real, keys):
    """Run to the end, and print what it took."""
    run = real.submit(keys, wait_for=5, timeout=600.0)
    ended = run.wait(timeout=600)
    assert ended.completed, run.text()
    costs = {(client["bytes_up"], client["bytes_down"]) for client in run.summary()["clients"]}
    print(f"{ended.seconds:.1f} s; bytes up and down of each client: {sorted(costs)}")  # noqa: T201
    return run


@pytest.fixture
def five(tmp_path):
    with federation(tmp_path, tls=True) as real:
        for name, domain in NODES.items():
            real.start_node(name, domain=domain)
        yield real


@pytest.mark.long
def test_a_secure_sum_is_the_plain_one_and_bears_with_a_client_killed_after_the_shares_were_dealt(five):
    plain, secure = (completed(five, keys) for keys in (POOLED, SECURE))
    assert np.abs(pooled(plain) - pooled(secure)).max() < 1e-4

    run = five.submit(SECURE | SLOW_TEACHERS, wait_for=5, timeout=600.0)
    five.nodes["hotels"].await_said("Receiving: train.secure_masked message", timeout=400, times=2)
    five.nodes["hotels"].kill()
    assert run.wait(timeout=900).completed, run.text()
    statuses = run.statuses()
    assert [name for name, status in statuses.items() if status != "ok"] == ["hotels"]
    np.testing.assert_allclose(pooled(run).sum(axis=1), 1, atol=1e-6)
    print(statuses)  # noqa: T201
