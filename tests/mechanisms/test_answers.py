"""Runs, audits and a sweep's baselines answer by one function: the same bits on the same texts."""

from pathlib import Path

import numpy as np
import pytest

from knot_fed.audit.subject import OpenedRun
from knot_fed.config.choices import reports_scores
from knot_fed.federation.server.nodes import content_of
from knot_fed.federation.wire import exchange
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec
from knot_fed.runs.run_folder import RunFolder
from knot_fed.runs.statistics import ENSEMBLE
from knot_fed.server_app import federate
from knot_fed.sweep.references import Ensemble, open_owners, reference_answers
from tests.fakes import InProcessGrid, virtual_clients

QUICK = {"teacher.epochs": 1, "privacy.epochs": 2, "privacy.sampling-rate": 0.1, "privacy.shards": 3}
LABELS = LabelSpace.preset("sentiment")


def constant_scores(answers):
    """A user's own scheme."""
    return np.ones(answers.confidences.shape)


OWN = f"{__name__}:constant_scores"


def answered(config, federation):
    """Ask the first client as a run does, and read its reply as the server does."""
    from flwr.app import Message

    transfer = federation.transfer
    request = exchange.pack_train_request(exchange.TrainRequest(1, transfer.fingerprint, 0, len(transfer), transfer))
    grid = InProcessGrid(virtual_clients(config, 3))
    (reply,) = grid.send_and_receive([Message(request, dst_node_id=100, message_type="train")])
    return exchange.unpack_soft_labels(
        content_of(reply), round_number=1, examples=len(transfer), labels=LABELS, privacy=config.privacy,
        scored=reports_scores(config.weights.scheme),
    ).answer  # fmt: skip


def owners(config, federation):
    return open_owners(config, federation.transfer, federation.public, 3)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "float16", "uint8", "top-k", "hard"])
@pytest.mark.parametrize("mechanism", ["none", "dp-sgd"])
def test_run_audit_and_baseline_agree_to_the_last_bit(small, mechanism, compression):
    keys = QUICK | {"privacy.mechanism": mechanism, "privacy.compression": compression}
    config = small(keys | {"weights.scheme": "confidence"})
    federation = OpenedRun.open(config, clients=3)
    texts = federation.transfer.texts
    in_run = answered(config, federation)
    audited = federation.subjects[0].run_teacher().answer(texts)
    baseline = owners(config, federation)[0].answer(texts, config.weights)
    for other in (audited, baseline):
        np.testing.assert_array_equal(other.soft_labels, in_run.soft_labels)
        np.testing.assert_array_equal(other.scores, in_run.scores)
        assert other.examples == in_run.examples
    if compression == "hard":
        assert set(np.unique(audited.soft_labels)) == {0.0, 1.0}
        assert (audited.soft_labels.sum(axis=1) == 1).all()


@pytest.mark.parametrize("compression", ["none", "hard"])
@pytest.mark.parametrize("mechanism", ["none", "dp-sgd"])
def test_the_ensemble_of_run_audit_and_sweep_agrees_to_the_last_bit(small, mechanism, compression):
    """The run pools what its clients sent in messages; the audit and the sweep pool the same teachers' answers."""
    keys = {"privacy.mechanism": mechanism, "privacy.compression": compression, "weights.scheme": "confidence"}
    config = small(QUICK | keys | {"distill.epochs": 1, "student.pretrain": True})
    folder = RunFolder.create(Path(config.runs_dir), "run")
    federate(InProcessGrid(virtual_clients(config, 3)), config, folder)
    in_run = np.load(folder.path / "pooled-soft-labels-1.npy")
    federation = OpenedRun.open(config, clients=3)
    texts = federation.transfer.texts
    answers = {subject.client.name: subject.run_teacher().answer(texts) for subject in federation.subjects}
    assert list(answers) != sorted(answers)  # the order of summation matters
    if compression == "hard":
        for answer in answers.values():
            assert set(np.unique(answer.soft_labels)) == {0.0, 1.0}
            assert (answer.soft_labels.sum(axis=1) == 1).all()
    audited = federation.consensus(answers, federation.public_answers(texts)).pooled
    sharper = Ensemble(config.weights.model_copy(update={"power": 4.0}), {"weights.power": 4.0})
    found = reference_answers(owners(config, federation), texts, [Ensemble(config.weights, {}), sharper])
    (named, baseline), (other, by_power) = found[-2:]
    assert named == {"line": ENSEMBLE, "weights": "confidence"}
    assert other == named | {"weights.power": 4.0}
    assert not np.array_equal(by_power, baseline)
    np.testing.assert_array_equal(audited, in_run)
    np.testing.assert_array_equal(baseline, in_run)
    assert len(np.unique(in_run, axis=0)) > 1


@pytest.mark.parametrize("mechanism", ["gaussian", "pate"])
@pytest.mark.parametrize("scheme", ["uniform", OWN])
def test_under_noise_on_rows_all_of_them_are_noisy_and_none_sends_a_score(small, mechanism, scheme):
    config = small(QUICK | {"privacy.mechanism": mechanism, "privacy.compression": "hard", "weights.scheme": scheme})
    federation = OpenedRun.open(config, clients=3)
    texts = federation.transfer.texts[:50]
    in_run = answered(config, federation)
    teacher = federation.subjects[0].run_teacher()
    audited, again = teacher.answer(texts), teacher.answer(texts)
    baseline = owners(config, federation)[0].answer(texts, config.weights)
    for scores in (in_run.scores, audited.scores, baseline.scores):
        assert not scores.any()
    assert {in_run.examples, audited.examples, baseline.examples} == {0}
    np.testing.assert_array_equal(audited.soft_labels, again.soft_labels)
    for rows in (in_run.soft_labels, audited.soft_labels, baseline.soft_labels):
        assert set(np.unique(rows)) == {0.0, 1.0}
        assert (rows.sum(axis=1) == 1).all()
    assert not np.array_equal(audited.soft_labels, baseline.soft_labels)


def test_a_spec_of_the_same_model_is_named_alike_whatever_is_not_read():
    from knot_fed.models import model_identity

    one = ModelSpec("ngram-bag", "all", ("a", "b"), False, 128)
    assert model_identity(one) == model_identity(ModelSpec("ngram-bag", "head", ("a", "b"), False, 64, ("x",)))
    assert model_identity(one) == model_identity(ModelSpec("ngram-bag", "all", ("a", "c"), False, 128))
    assert model_identity(one) != model_identity(ModelSpec("ngram-bag", "all", ("a", "b", "c"), False, 128))
    bert = ModelSpec("tiny-bert", "all", ("a", "b"), False, 128, ("x",))
    assert model_identity(bert) != model_identity(ModelSpec("tiny-bert", "all", ("a", "b"), False, 64, ("x",)))
