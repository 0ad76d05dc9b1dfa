"""Privacy mechanisms and owners' policies, with real messages over the in-process grid."""

import json
from pathlib import Path

import numpy as np
import pytest

from knot_fed.errors import ConfigError, FederationError
from knot_fed.federation.server.facts import privacy_facts
from knot_fed.federation.server.roster import ClientRecord, Outcome
from knot_fed.federation.wire import exchange
from knot_fed.privacy.ledger.ledger import Ledger
from knot_fed.runs.run_folder import RunFolder
from knot_fed.server_app import federate
from tests.fakes import InProcessGrid, context, virtual_clients

pytestmark = pytest.mark.slow

QUICK = {
    "distill.epochs": 1, "teacher.epochs": 1, "privacy.epochs": 2, "privacy.sampling-rate": 0.1, "privacy.shards": 3,
    "data.limit": 200, "student.pretrain": False, "weights.scheme": "uniform", "min-teachers": 1,
}  # fmt: skip


def run(config, name, contexts=None):
    grid = InProcessGrid(contexts or virtual_clients(config, 3))
    folder = RunFolder.create(Path(config.runs_dir), name)
    folder.write_config(config.to_mapping())
    federate(grid, config, folder)
    return folder, grid


def releases_in(state):
    """The ledger's entries for soft labels, without evaluations and bindings of runs."""
    return [entry for entry in Ledger(state).entries() if entry.texts]


def releases_of(config, name="phones"):
    return releases_in(Path(config.state_dir) / name)


def owned(config, tmp_path, policy):
    """One node with a private file and a policy."""
    private = tmp_path / "mine.jsonl"
    rows = [{"text": f"it is {'good' if row % 5 > 2 else 'bad'} {row}", "label": row % 5} for row in range(60)]
    private.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "policy.toml").write_text(policy)
    node = {"name": "mine", "data": str(private), "state-dir": str(tmp_path / "mine")}
    return {100: context(config, node=node | {"policy": str(tmp_path / "policy.toml")}, node_id=100)}


@pytest.mark.parametrize("mechanism", ["dp-sgd", "pate", "gaussian"])
def test_a_run_under_a_mechanism_claims_its_epsilon_and_tells_no_counts(run_config, mechanism):
    config = run_config(keys=QUICK | {"privacy.mechanism": mechanism, "rounds": 2})
    folder, _ = run(config, mechanism)
    told = folder.read_summary()["privacy"]
    assert told["mechanism"] == mechanism
    assert 7.8 < told["epsilon"] <= 8.0 * (1 + 1e-6)
    assert told["unit"] == ("client" if mechanism == "gaussian" else "record")
    assert set(told["clients"]) == {"phones", "restaurants", "hotels"}
    assert told["epsilon"] == max(client["epsilon"] for client in told["clients"].values())
    assert {client["examples"] for client in folder.read_summary()["clients"]} == {0}
    assert [entry.fresh > 0 for entry in releases_of(config)] == [True, mechanism != "dp-sgd"]


@pytest.mark.parametrize("mechanism", ["dp-sgd", "gaussian"])
def test_the_same_teacher_or_answer_again_costs_nothing_and_is_the_same(run_config, mechanism):
    config = run_config(keys=QUICK | {"privacy.mechanism": mechanism})
    pooled = [np.load(run(config, name)[0].path / "pooled-soft-labels-1.npy") for name in ("first", "again")]
    assert np.array_equal(*pooled)
    assert [entry.fresh > 0 for entry in releases_of(config)] == [True, False]


def test_another_epsilon_trains_another_teacher_and_composes(run_config, tmp_path):
    owner = "max-epsilon = 9.0"
    for name, epsilon, fine in (("one", 8.0, True), ("two", 1.0, True), ("three", 7.0, False)):
        config = run_config(keys=QUICK | {"privacy.mechanism": "dp-sgd", "privacy.epsilon": epsilon})
        contexts = owned(config, tmp_path, owner)
        if fine:
            run(config, name, contexts)
        else:
            with pytest.raises(
                FederationError, match=r"from 8.07 to 9.83.*beyond max-epsilon = 9; ask for a smaller privacy\.epsilon"
            ):
                run(config, name, contexts)
    assert len(releases_in(tmp_path / "mine")) == 2
    assert len(list((tmp_path / "mine/teachers").iterdir())) == 2


@pytest.mark.parametrize(
    ("policy", "keys", "said"),
    [
        ('require = ["dp-sgd", "pate"]', {}, "privacy.mechanism = 'none' is less than the policy asks"),
        ('require = ["dp-sgd"]', {"privacy.mechanism": "gaussian"}, "use dp-sgd"),
        ("max-epsilon = 20.0", {}, "from 0 to inf at delta 1e-05, beyond max-epsilon = 20"),
        ("max-epsilon = 1.0", {"privacy.mechanism": "gaussian"}, "beyond max-epsilon = 1"),
        ('max-epsilon = 20.0\nunit = "client"', {"privacy.mechanism": "dp-sgd"}, "for each client from 0 to inf"),
        ("max-texts-in-life = 100", {"privacy.mechanism": "dp-sgd"}, "max-texts-in-life = 100"),
    ],
)
def test_a_request_beyond_the_policy_is_refused_before_anything_is_computed(run_config, tmp_path, policy, keys, said):
    config = run_config(keys=QUICK | keys)
    with pytest.raises(FederationError) as failure:
        run(config, "beyond", owned(config, tmp_path, policy))
    assert said in str(failure.value)
    assert not (tmp_path / "mine/teachers").exists()
    assert not releases_in(tmp_path / "mine")


def test_the_smaller_epsilon_of_server_and_owner_counts(run_config, tmp_path):
    config = run_config(keys=QUICK | {"privacy.mechanism": "gaussian", "privacy.epsilon": 8.0})
    folder, _ = run(config, "stricter", owned(config, tmp_path, "max-epsilon-per-run = 2.0\ndelta = 1e-6"))
    claim = folder.read_summary()["privacy"]["clients"]["mine"]
    assert claim == {"epsilon": pytest.approx(2.0, rel=1e-6), "delta": 1e-6}


@pytest.mark.parametrize("mechanism", ["dp-sgd", "pate", "gaussian"])
@pytest.mark.parametrize("most", [0.01, 0.1])
def test_an_owner_who_allows_a_small_epsilon_answers_within_it(run_config, tmp_path, mechanism, most):
    config = run_config(keys=QUICK | {"privacy.mechanism": mechanism})
    folder, _ = run(config, "small", owned(config, tmp_path, f"max-epsilon-per-run = {most}"))
    claimed = folder.read_summary()["privacy"]["clients"]["mine"]["epsilon"]
    assert 0.98 * most < claimed <= most * (1 + 1e-6)


@pytest.mark.parametrize("mechanism", ["dp-sgd", "pate", "gaussian"])
def test_an_epsilon_too_small_to_solve_is_one_sentence_and_nothing_is_charged(run_config, tmp_path, mechanism):
    config = run_config(keys=QUICK | {"privacy.mechanism": mechanism})
    with pytest.raises(FederationError, match=r"max-epsilon-per-run: use 0 for no limit, or 0\.01 to 1000"):
        run(config, "less", owned(config, tmp_path, "max-epsilon-per-run = 0.009"))
    assert not releases_in(tmp_path / "mine")
    assert not (tmp_path / "mine/teachers").exists()


def test_a_client_that_claims_another_mechanism_than_asked_is_rejected(run_config):
    config = run_config(keys=QUICK | {"privacy.mechanism": "dp-sgd"})

    def less(reply):
        if exchange.ANSWER in reply.content:
            reply.content[exchange.ANSWER]["mechanism"] = "none"
        return reply

    grid = InProcessGrid(virtual_clients(config, 3), tamper=less)
    with pytest.raises(FederationError, match="claims mechanism 'none', expected 'dp-sgd'"):
        federate(grid, config, RunFolder.create(Path(config.runs_dir), "less"))


def test_without_opacus_nothing_leaves_and_nothing_is_spent(run_config, monkeypatch):
    monkeypatch.setattr("knot_fed.training.dp_sgd.find_spec", lambda name: None)
    config = run_config(keys=QUICK | {"privacy.mechanism": "dp-sgd"})
    with pytest.raises(FederationError, match=r"needs Opacus, which is not installed; pip install 'knot-fed"):
        run(config, "without")
    assert not releases_of(config)


def test_a_resumed_run_tells_the_epsilon_that_was_asked_for_all_of_it(run_config):
    keys = {"weights.scheme": "uniform", "privacy.mechanism": "gaussian"}
    outcome = Outcome({"phones": ClientRecord("phones", 1, claim=exchange.Claim("gaussian", 5.0, 1e-6))})
    for resumed, told in (("", {"epsilon": 5.0, "delta": 1e-6}), ("before", {"epsilon": 8.0, "delta": 1e-5})):
        facts = privacy_facts(run_config(keys=keys | {"resume": resumed}), outcome)
        assert facts["clients"] == {"phones": told}
        assert facts["epsilon"] == told["epsilon"]


def test_compression_shrinks_what_is_counted_on_the_wire(run_config):
    sent = []
    for scheme in ("none", "float16", "uint8", "hard"):
        folder, _ = run(run_config(keys=QUICK | {"privacy.compression": scheme}), scheme)
        sent.append(folder.read_summary()["clients"][0]["bytes_up"])
        assert folder.read_summary()["privacy"]["compression_guarantee"] == "no guarantee"
    assert sent == sorted(sent, reverse=True)
    assert len(set(sent)) == 4


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"privacy.mechanism": "dp-sgd", "weights.scheme": "density"}, "does not cover; use uniform or certainty or"),
        ({"privacy.mechanism": "dp-sgd", "weights.scheme": "size"}, "weights.scheme = 'size'"),
        ({"privacy.mechanism": "pate", "weights.scheme": "confidence"}, "use uniform or certainty or variance$"),
        ({"privacy.mechanism": "dp-sgd", "weights.scheme": "reliability"}, "weights.scheme = 'reliability' reads"),
        ({"privacy.mechanism": "gaussian", "weights.scheme": "adafd"}, "weights.scheme = 'adafd' reads"),
        ({"privacy.mechanism": "pate", "weights.scheme": "selective"}, "weights.scheme = 'selective' reads"),
        ({"privacy.mechanism": "dp-sgd", "teacher.class-weights": "balanced"}, "reveals the private mix of labels"),
        ({"privacy.mechanism": "laplace"}, "privacy.mechanism = 'laplace'"),
        ({"privacy.epsilon": 0.0}, "privacy.epsilon = 0.0: input should be greater than or equal to 0.01"),
        ({"privacy.delta": 1.0}, "privacy.delta = 1.0: input should be less than or equal to 0.1"),
        ({"privacy.sampling-rate": 1.5}, "privacy.sampling-rate = 1.5"),
        ({"privacy.shards": 1}, "privacy.shards = 1"),
    ],
)
def test_what_no_mechanism_covers_is_refused_before_the_run(run_config, keys, said):
    with pytest.raises(ConfigError, match=said):
        run_config(keys={"weights.scheme": "uniform"} | keys)
