"""Warm-up, schedules, clipping, accumulation, label smoothing and dropout: the same names for teachers and students."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.config import DistillConfig, TeacherConfig
from knot_fed.labels import LabelSpace
from knot_fed.losses import ForwardKL
from knot_fed.models import ModelSpec, build_classifier, train_vocabulary, trained_state
from knot_fed.training.cross_entropy import CrossEntropy
from knot_fed.training.distillation import distil_student
from knot_fed.training.fitting import Schedule, fit_all_epochs, rate_factor

LABELS = LabelSpace.preset("sentiment").names
TEXTS = ["dreadful food", "lovely, lovely rooms", "a phone", "it was bad"] * 12
TRUTH = np.array([0, 4, 2, 1] * 12)
PLAIN = Schedule(epochs=3, patience=3, batch_size=8, learning_rate=1e-2)
SHAPES = st.sampled_from(["constant", "linear", "cosine"])
SETTINGS = {"warmup": 0.25, "schedule": "cosine", "clip-norm": 0.5, "accumulate": 2}


def new_model(name="ngram-bag"):
    vocabulary = train_vocabulary(TEXTS) if name == "tiny-bert" else ()
    return build_classifier(ModelSpec(name, "all", LABELS, False, 32, vocabulary), seed=0)


def trained(schedule, *, texts=TEXTS, labels=TRUTH):
    model = new_model()
    fit_all_epochs(model, model.encode(texts), CrossEntropy(labels, 5, "none"), schedule, seed=1)
    return trained_state(model)


def rates_of(schedule, monkeypatch):
    """The learning rate of every optimiser step."""
    rates, step = [], torch.optim.AdamW.step

    def noted(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", noted)
        trained(schedule)
    return rates


@given(st.integers(1, 300), st.floats(0, 0.99), SHAPES)
def test_the_rate_rises_to_its_value_and_never_leaves_0_to_1(steps, warmup, shape):
    factors = [rate_factor(step, steps=steps, warmup=warmup, shape=shape) for step in range(steps)]
    rising = round(warmup * steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:rising] == sorted(factors[:rising])
    assert factors[rising:] == sorted(factors[rising:], reverse=True)
    assert max(factors) == 1
    if shape != "constant" and rising < steps:
        assert rate_factor(steps, steps=steps, warmup=warmup, shape=shape) == pytest.approx(0)


def test_the_cosine_is_half_a_period():
    factors = [rate_factor(step, steps=8, warmup=0.0, shape="cosine") for step in range(8)]
    np.testing.assert_allclose(factors, [math.cos(math.pi * step / 16) ** 2 for step in range(8)])


def test_a_constant_rate_is_one_of_adamw_alone(monkeypatch):
    assert set(rates_of(PLAIN, monkeypatch)) == {1e-2}


def test_a_schedule_runs_over_the_configured_epochs_in_optimiser_steps(monkeypatch):
    rates = rates_of(replace(PLAIN, shape="linear", warmup=1 / 3, accumulate=2), monkeypatch)
    np.testing.assert_allclose(
        rates, [1e-2 * factor for factor in [1 / 3, 2 / 3, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]]
    )


def test_accumulated_batches_are_one_larger_batch():
    labels, texts = TRUTH[:42], TEXTS[:42]  # the last step is smaller, and so is its last batch
    large = trained(replace(PLAIN, batch_size=16), texts=texts, labels=labels)
    gathered = trained(replace(PLAIN, batch_size=8, accumulate=2), texts=texts, labels=labels)
    for name, value in large.items():
        np.testing.assert_allclose(gathered[name], value, atol=1e-5, err_msg=name)


def test_a_clipped_gradient_is_no_longer_than_the_norm(monkeypatch):
    seen, step = [], torch.optim.AdamW.step

    def noted(self, *args, **kwargs):
        seen.append(torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"]]).norm().item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    trained(replace(PLAIN, clip_norm=0.01))
    clipped = len(seen)
    trained(PLAIN)
    assert max(seen[:clipped]) <= 0.01 * 1.001 < min(seen[clipped:])


def test_smoothed_labels_are_cross_entropy_to_the_smoothed_distribution():
    generator = np.random.default_rng(1)
    logits = torch.from_numpy(generator.normal(size=(4, 5)))
    labels = np.array([0, 4, 2, 1])
    smoothed = 0.9 * np.eye(5)[labels] + 0.1 / 5
    expected = -(smoothed * torch.log_softmax(logits, dim=1).numpy()).sum(axis=1).mean()
    found = CrossEntropy(labels, 5, "none", smoothing=0.1)(logits, np.arange(4))
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def distil(run_config, keys=None, **options):
    student = new_model("tiny-bert")
    given = {f"distill.{key}": value for key, value in (keys or {}).items()}
    settings = run_config(keys={"distill.epochs": 5, "distill.batch-size": 8} | given).distill
    soft_labels = 0.9 * np.eye(5)[TRUTH][None] + 0.02
    distil_student(student, TEXTS, soft_labels, np.ones((1, 48)), ForwardKL(), settings, seed=1, **options)
    return trained_state(student)


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_distillation_with_every_setting_resumes_with_the_same_student(run_config, epoch):
    kept = []
    whole = distil(run_config, SETTINGS, on_epoch=kept.append)
    resumed = distil(run_config, SETTINGS, start=kept[epoch])
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def test_every_setting_changes_the_student_and_dropout_can_be_off(run_config):
    students = [distil(run_config, {key: value}) for key, value in SETTINGS.items()]
    students += [distil(run_config), distil(run_config, {"dropout": False})]
    name = next(name for name, value in students[0].items() if value.ndim == 2)
    assert len({student[name].tobytes() for student in students}) == len(students)


def test_without_dropout_the_mode_of_the_model_is_that_of_prediction(run_config, monkeypatch):
    modes = {}
    for dropout in (True, False):
        student = new_model("tiny-bert")
        seen = modes.setdefault(dropout, set())

        def loss(logits, soft_labels, weights, student=student, seen=seen):
            if torch.is_grad_enabled():
                seen.add(student.training)
            return ForwardKL()(logits, soft_labels, weights)

        settings = run_config(keys={"distill.epochs": 1, "distill.dropout": dropout}).distill
        distil_student(student, TEXTS, np.eye(5)[TRUTH][None], np.ones((1, 48)), loss, settings, seed=1)
    assert modes == {True: {True}, False: {False}}


def test_teachers_and_distillation_have_the_same_keys_with_the_same_bounds():
    for name in ("warmup", "schedule", "clip_norm", "accumulate"):
        first, second = TeacherConfig.model_fields[name], DistillConfig.model_fields[name]
        assert (first.default, first.metadata, first.description) == (
            second.default,
            second.metadata,
            second.description,
        )
