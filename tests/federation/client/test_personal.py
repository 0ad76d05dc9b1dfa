"""A server sends a consensus; the owner's policy and the client's checks decide what becomes of it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from knot_fed.data.transfer_set import TransferSet
from knot_fed.federation.wire import envelope, exchange, personal_wire
from knot_fed.models import load_classifier
from knot_fed.training.teacher import predict_soft_labels
from tests.federation.client.owners import LABELS, PUBLIC, SPEC, Owner, rows
from tests.models.tiny_models import write_trained

KEYS = {"personal.consensus": "pooled", "personal.epochs": 2}
FLAT = np.full((len(PUBLIC), 5), 0.2, np.float32)


def consensus(soft_labels=FLAT, *, transfer=PUBLIC, fingerprint="", number=1, stop=None, texts=True):
    stop = len(soft_labels) if stop is None else stop
    held = transfer if texts else None
    part = exchange.TrainRequest(number, fingerprint or transfer.fingerprint, 0, stop, held)
    return personal_wire.pack_consensus(personal_wire.ConsensusRequest(part, soft_labels))


def replied(owner, content, number=1):
    reply = owner.ask(personal_wire.KIND, content)
    assert envelope.refusal_of(reply) is None, envelope.refusal_of(reply)
    return replace(personal_wire.unpack_reply(reply, round_number=number, labels=LABELS), seconds=0.0)


def owner_of(folder, policy="", keys=KEYS, **options):
    return Owner(folder / "mine", policy=policy, **options).run(keys=keys)


def refused(owner, content):
    reason = owner.refusal(personal_wire.KIND, content)
    assert not (owner.state / "personal").exists()
    return reason


def test_an_owner_keeps_a_personal_model_and_gets_rounded_metrics_of_two_models_counted(tmp_path):
    owner = owner_of(tmp_path)
    reply = replied(owner, consensus())
    assert reply.before.accuracy == round(reply.before.accuracy, 2)
    assert [entry.evaluations for entry in owner.entries() if entry.evaluations] == [2]
    assert load_classifier(owner.state / "personal").spec.labels == LABELS.names
    assert oct((owner.state / "personal").resolve().stat().st_mode)[-3:] == "700"


@pytest.mark.parametrize(("when", "goes_on"), [("end", False), ("rounds", True)])
def test_a_model_starts_from_that_of_an_earlier_round_only_where_one_is_made_in_each(tmp_path, when, goes_on):
    """A history of another run of the same name must not decide what a model made at the end starts from."""
    owner, digests = owner_of(tmp_path, keys=KEYS | {"personal.when": when, "rounds": 2}), []
    for number in (2, 1, 2):
        replied(owner, consensus(number=number), number=number)
        digests.append((owner.state / "personal").resolve().name)
    assert (digests[0] != digests[2]) == goes_on


ROUNDS = KEYS | {"personal.when": "rounds", "rounds": 2, "teacher.start": "personal", "teacher.round-epochs": 2}


def test_a_model_starts_from_the_teacher_that_answered_in_the_same_round(tmp_path):
    """With a learning rate of nearly 0 the distillation leaves the model as the round's teacher."""
    rates = {"teacher.learning-rate": 0.002, "personal.learning-rate": 1e-9}
    owner, predicted = owner_of(tmp_path, "accept-student = true", keys=ROUNDS | rates), []
    for number in (1, 2):
        answered = owner.soft_labels(round_number=number).answer.soft_labels
        replied(owner, consensus(number=number), number=number)
        predicted.append(predict_soft_labels(load_classifier(owner.state / "personal"), PUBLIC.texts))
        np.testing.assert_allclose(predicted[-1], answered, atol=1e-4)
    assert np.abs(predicted[1] - predicted[0]).max() > 0.01


def test_an_owner_that_accepts_no_consensus_refuses_it_in_one_sentence(tmp_path):
    owner = owner_of(tmp_path, "accept-consensus = false")
    assert refused(owner, consensus()) == (
        "the policy accepts no consensus, so there is no personal model; set accept-consensus"
    )


def test_a_consensus_that_the_run_does_not_announce_is_refused(tmp_path):
    assert "personal.consensus = 'none'" in refused(owner_of(tmp_path, keys={}), consensus())


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("take-part-in-evaluation = false", "out of evaluation"),
        ("least-test-examples = 1000", "least-test-examples"),
        ("max-evaluations-per-run = 1", "max-evaluations-per-run = 1: 0 used, 2 more needed"),
        ("max-epsilon = 3", "evaluate-without-guarantee"),
    ],
)
def test_a_policy_that_gives_no_metrics_keeps_them_and_the_model_is_made(tmp_path, policy, said):
    owner = owner_of(tmp_path, policy)
    reply = replied(owner, consensus())
    assert reply.before is None
    assert reply.after is None
    assert said in reply.withheld
    assert (owner.state / "personal" / "knot_fed.json").is_file()
    assert not [entry for entry in owner.entries() if entry.evaluations]


@pytest.mark.parametrize(("policy", "leave"), [("", False), ("evaluate-without-guarantee = true", True)])
@pytest.mark.parametrize("mechanism", ["dp-sgd", "gaussian"])
def test_metrics_of_models_without_noise_leave_no_run_with_a_guarantee(tmp_path, mechanism, policy, leave):
    owner = owner_of(tmp_path, policy, keys=KEYS | {"privacy.mechanism": mechanism})
    reply = replied(owner, consensus())
    assert (reply.before is not None) == (reply.after is not None) == leave
    assert leave or "the run has a guarantee, which metrics of a model trained without noise" in reply.withheld
    assert bool([entry for entry in owner.entries() if entry.evaluations]) == leave
    assert (owner.state / "personal" / "knot_fed.json").is_file()


def changed(change):
    soft_labels = FLAT.copy()
    change(soft_labels)
    return soft_labels


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: consensus(changed(lambda rows_: rows_.__setitem__(3, 1.0))), "sums to"),
        (lambda: consensus(changed(lambda rows_: rows_.__setitem__((0, 0), np.nan))), "consensus"),
        (lambda: consensus(changed(lambda rows_: rows_.__setitem__(0, [-1, 2, 0, 0, 0]))), "consensus"),
        (lambda: consensus(FLAT[:-1], stop=len(PUBLIC)), "expected"),
        (lambda: consensus(FLAT[:, :4]), "expected"),
        (lambda: consensus(np.full((40, 5), 0.2), texts=False), "never received"),
        (lambda: consensus(np.full((40, 5), 0.2)), "another transfer set than the one held"),
        (lambda: consensus(fingerprint="a" * 64), "do not have the fingerprint"),
        (lambda: consensus(fingerprint="../../etc"), "not a SHA-256"),
        (lambda: consensus(number=0), "count rounds from 1"),
    ],
)
def test_a_hostile_consensus_is_refused_before_any_training(tmp_path, content, said):
    owner = owner_of(tmp_path)
    assert said in refused(owner, content())
    assert not (owner.state / "teachers").exists()


@pytest.mark.parametrize(
    ("kept", "geometry", "said"),
    [
        (None, LABELS, "needs none, and coordinates were sent"),
        ([], None, "keeps no text"),
        ([3, 1], None, "kept texts that do not increase"),
        ([0, len(PUBLIC)], None, "kept texts that do not increase"),
    ],
)
def test_a_geometry_or_positions_that_do_not_fit_are_refused_before_any_training(tmp_path, kept, geometry, said):
    owner = owner_of(tmp_path)
    part = exchange.TrainRequest(1, PUBLIC.fingerprint, 0, len(PUBLIC), PUBLIC)
    positions = None if kept is None else np.array(kept, np.uint32)
    soft_labels = FLAT if kept is None else FLAT[: len(kept)]
    request = personal_wire.ConsensusRequest(part, soft_labels, positions, geometry)
    assert said in refused(owner, personal_wire.pack_consensus(request))
    assert not (owner.state / "teachers").exists()


def test_a_consensus_on_another_transfer_set_than_the_run_began_with_is_refused(tmp_path):
    owner = owner_of(tmp_path)
    owner.soft_labels()
    other = TransferSet(tuple(f"other {number}" for number in range(len(PUBLIC))))
    assert "another transfer set than at the start of this run" in refused(owner, consensus(transfer=other))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"personal.loss": "os:system"}, "personal.loss is a function that only the server names"),
        ({"transport.cost": "/etc/cost.npy"}, "transport.cost is a file, which only the server has"),
    ],
)
def test_a_server_makes_an_owner_run_no_function_and_read_no_file(tmp_path, keys, said):
    assert said in refused(owner_of(tmp_path, keys=KEYS | keys), consensus())


def test_a_costly_personal_model_is_refused_before_any_training(tmp_path):
    owner = owner_of(tmp_path, "max-steps = 5000", keys=KEYS | {"personal.epochs": 10_000})
    assert "more than max-steps = 5000" in refused(owner, consensus())
    assert not (owner.state / "teachers").exists()


def test_a_costly_teacher_that_starts_from_a_model_is_refused_before_any_training(tmp_path):
    owner = owner_of(tmp_path, "max-steps = 5000\naccept-student = true", keys=ROUNDS)
    replied(owner, consensus())
    made = sorted((owner.state / "personal-models").iterdir())
    owner.run(keys=ROUNDS | {"teacher.round-epochs": 10_000})
    assert "more than max-steps = 5000" in owner.refusal(personal_wire.KIND, consensus(number=2))
    assert sorted((owner.state / "personal-models").iterdir()) == made


def test_a_teacher_from_nothing_and_one_that_starts_from_a_model_are_both_counted(tmp_path):
    """They take 60 and 50 steps, and the model itself 2."""
    keys = ROUNDS | {"teacher.batch-size": 1000, "teacher.epochs": 60, "teacher.round-epochs": 50}
    owner = owner_of(tmp_path, "max-steps = 100\naccept-student = true", keys=keys)
    replied(owner, consensus())
    replied(owner, consensus(number=2), number=2)
    owner.run(keys=keys | {"teacher.weight-decay": 0.1})
    assert "more than max-steps = 100" in owner.refusal(personal_wire.KIND, consensus(number=2))
    (owner.folder / "policy.toml").write_text("max-steps = 112\naccept-student = true")
    replied(owner, consensus(number=2), number=2)


def test_a_restarted_owner_loads_the_model_of_the_same_request(tmp_path):
    owner = owner_of(tmp_path)
    first = replied(owner, consensus())
    kept = (owner.state / "personal").resolve()
    written = (kept / "parameters.safetensors").stat().st_mtime_ns
    owner.run(keys=KEYS)  # nothing is left but the state folder
    assert replied(owner, consensus(texts=False)) == first
    assert (owner.state / "personal").resolve() == kept
    assert (kept / "parameters.safetensors").stat().st_mtime_ns == written


def test_a_damaged_personal_model_is_made_again(tmp_path):
    owner = owner_of(tmp_path)
    first = replied(owner, consensus())
    (owner.state / "personal" / "parameters.safetensors").write_bytes(b"")
    (owner.state / "personal-models" / "history.jsonl").write_bytes(b"\xff\n{}\n")
    assert replied(owner, consensus()) == first


@pytest.mark.parametrize("damaged", ["parameters.safetensors", "knot_fed.json"])
def test_a_damaged_model_of_an_earlier_round_is_reported_and_not_used(tmp_path, caplog, damaged):
    owner = owner_of(tmp_path, "accept-student = true", keys=ROUNDS)
    replied(owner, consensus())
    (owner.state / "personal" / damaged).write_bytes(b"")
    alone = owner.soft_labels().answer.soft_labels
    np.testing.assert_array_equal(owner.soft_labels(round_number=2).answer.soft_labels, alone)
    replied(owner, consensus(number=2), number=2)
    assert "hospital: a personal model of an earlier round cannot be used" in caplog.text


def test_a_prompted_teacher_which_is_never_trained_is_not_said_to_start_from_nothing(tmp_path, caplog):
    client = owner_of(tmp_path, "accept-student = true", keys=ROUNDS, model="prompt:/absent").client()
    part = exchange.TrainRequest(2, PUBLIC.fingerprint, 0, len(PUBLIC), PUBLIC)
    with caplog.at_level("INFO"):
        assert client.teacher_start(part, SPEC, run="7") is None
    assert "from nothing" not in caplog.text


@pytest.mark.parametrize("ready", [False, True])
def test_a_model_is_made_again_where_the_examples_have_changed_after_an_earlier_round(tmp_path, ready):
    model = {"model": write_trained(tmp_path / "ready", LABELS.names)} if ready else {}
    keys = KEYS | {"personal.when": "rounds", "rounds": 2} | ({"teacher.epochs": 0} if ready else {})
    owner, made = owner_of(tmp_path, keys=keys, **model), []
    replied(owner, consensus())
    for examples in (rows(), [row for row in rows() if row["label"] != 1]):
        owner.write(examples)
        replied(owner, consensus(number=2), number=2)
        made.append((owner.state / "personal").resolve().name)
    assert made[0] != made[1]


def test_an_owner_of_one_label_learns_the_others_from_the_consensus(tmp_path):
    examples = [{"text": f"it is good number {row}", "label": 3} for row in range(300)]
    owner = owner_of(tmp_path, examples=examples, keys=KEYS | {"personal.epochs": 300, "personal.loss": "kl"})
    soft_labels = np.full((len(PUBLIC), 5), 0.01, np.float32)
    for row, text in enumerate(PUBLIC.texts):
        soft_labels[row, 3 if "good" in text else 1 if "bad" in text else 2] = 0.96
    reply = replied(owner, consensus(soft_labels))
    assert reply.before.accuracy == 1.0
    personal = load_classifier(owner.state / "personal")
    assert predict_soft_labels(personal, ["a bad book of 3", "a good book of 4"]).argmax(axis=1).tolist() == [1, 3]


def test_no_private_text_leaves_in_a_refusal_or_a_reply(tmp_path):
    examples = rows(extra=[{"text": "zugzwang-9923", "label": 2}])
    owner = owner_of(tmp_path, examples=examples)
    content = owner.ask(personal_wire.KIND, consensus())
    assert set(content) == {personal_wire.DONE, personal_wire.BEFORE, personal_wire.AFTER}
    assert "zugzwang" not in json.dumps({name: dict(record) for name, record in content.items()})
