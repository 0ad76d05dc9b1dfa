"""`teacher.epochs = 0`: a ready model is used without training, and settings that would train it are refused."""

import numpy as np
import pytest

from knot_fed.audit.attacks.findings import Effort
from knot_fed.audit.folder import AuditFolder
from knot_fed.audit.study import Audit, run_audit
from knot_fed.errors import ConfigError, ModelError
from knot_fed.federation.client.costs import estimate_cost
from knot_fed.federation.client.release import teacher_plan
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, build_classifier, trained_state
from knot_fed.preflight.models import check_models
from knot_fed.sweep.references import Ensemble, reference_rows
from knot_fed.training.kept_teachers import load_or_train_teacher, teacher_digest
from tests.federation.client.owners import Owner
from tests.federation.server.test_federated_run import run
from tests.models.tiny_models import write_bert, write_trained

NAMES = LabelSpace.preset("sentiment").names


@pytest.fixture
def ready(tmp_path):
    """A classifier whose files hold its trained head."""
    return write_trained(tmp_path / "ready", NAMES)


def test_a_federation_of_ready_models_trains_none_and_keeps_no_copy(run_config, ready):
    config = run_config(model=ready, keys={"teacher.epochs": 0, "data.limit": 60, "distill.epochs": 1})
    folder, _ = run(config, "ready")
    assert folder.read_summary()["status"] == "ok"
    assert not list((folder.path.parent.parent / "state").rglob("teachers/*"))


def test_a_ready_teacher_is_the_model_as_built_whatever_the_examples(run_config, ready, tmp_path):
    from knot_fed.audit.subject import OpenedRun

    config = run_config(model=ready, keys={"teacher.epochs": 0, "data.limit": 60})
    first, second = (subject.examples for subject in OpenedRun.open(config, clients=3).subjects[:2])
    spec = ModelSpec(ready, "all", NAMES, paired=False, max_length=32)
    teacher, reused = load_or_train_teacher(spec, first, config.teacher, seed=1, folder=tmp_path / "kept")
    built = trained_state(build_classifier(spec, seed=1))
    assert not reused
    assert all(np.array_equal(value, built[name]) for name, value in trained_state(teacher).items())
    assert teacher_digest(spec, first, config.teacher, 1) == teacher_digest(spec, second, config.teacher, 1)


def test_a_model_with_random_parameters_is_refused_before_anything_starts(run_config, tmp_path):
    encoder = write_bert(tmp_path / "encoder")
    for model in ("ngram-bag", "tiny-bert", encoder):
        with pytest.raises(ModelError, match=f"teacher.epochs = 0 uses a model as it is, and '{model}' starts from"):
            check_models(run_config(model=model, keys={"teacher.epochs": 0}), ())


def test_a_student_that_is_not_pretrained_may_start_from_random_parameters(run_config, ready):
    keys = {"teacher.epochs": 0, "student.model": "ngram-bag", "student.pretrain": False}
    check_models(run_config(model=ready, keys=keys), ())
    with pytest.raises(ModelError, match=r"student\.pretrain = false"):
        check_models(run_config(model=ready, keys=keys | {"student.pretrain": True}), ())


def test_mechanisms_that_train_refuse_a_ready_model(run_config):
    for mechanism in ("dp-sgd", "pate"):
        with pytest.raises(ConfigError, match=f"teacher.epochs = 0 uses a ready model, and .*{mechanism}"):
            run_config(keys={"teacher.epochs": 0, "privacy.mechanism": mechanism, "weights.scheme": "uniform"})


def test_an_owner_refuses_a_random_model_before_anything_is_charged(tmp_path):
    from tests.federation.client.owners import request

    owner = Owner(tmp_path).run(keys={"teacher.epochs": 0})
    assert "'ngram-bag' starts from random parameters" in owner.refusal("train", request())
    assert not [entry for entry in owner.entries() if entry.texts]


def test_a_ready_model_costs_no_steps(run_config, ready):
    from knot_fed.audit.subject import OpenedRun

    config = run_config(model=ready, keys={"teacher.epochs": 0, "data.limit": 60})
    subject = OpenedRun.open(config, clients=3).subjects[0]
    plan = teacher_plan(subject.client, subject.examples, subject.transfer, seed=1, asked=2)
    cost = estimate_cost(plan, build_classifier(plan.spec, seed=0), ["a text", "another"], key=b"secret")
    assert cost.steps == 0
    assert cost.seconds > 0


def test_an_audit_of_ready_models_is_refused(run_config, tmp_path):
    config = run_config(keys={"teacher.epochs": 0})
    audit = Audit(
        AuditFolder(tmp_path), config, 3, "phones", ["membership"], [1], effort=Effort(2, 2, 1, 2, 1, 1e-5), jobs=1
    )
    with pytest.raises(ConfigError, match=r"teacher\.epochs = 0 trains no teacher, and an audit compares"):
        run_audit(audit, progress=print)


def test_a_sweep_of_ready_models_has_no_centralised_line(run_config, ready):
    config = run_config(model=ready, keys={"teacher.epochs": 0, "data.limit": 60})
    lines = {row["line"] for row in reference_rows(config, clients=3, weightings=[Ensemble(config.weights, {})])}
    assert lines == {"teacher phones", "teacher restaurants", "teacher hotels", "teacher books", "ensemble"}
