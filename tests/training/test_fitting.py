"""Training on a device: what a GPU must not change, and how full memory or a diverged loss is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from knot_fed.config import RunConfig
from knot_fed.errors import ModelError
from knot_fed.labels import LabelSpace
from knot_fed.losses import ForwardKL
from knot_fed.models import ModelSpec, build_classifier, device, train_vocabulary, trained_state, use_device
from knot_fed.privacy.noise import NoiseSource
from knot_fed.training.cross_entropy import CrossEntropy
from knot_fed.training.distillation import PublicCrossEntropy, distil_student
from knot_fed.training.dp_sgd import PrivateSchedule, _private_training, fit_privately
from knot_fed.training.fitting import Schedule, fit, fit_all_epochs
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.transport import OTLoss, make_ground_cost
from knot_fed.types import LabelledTexts

LABELS = LabelSpace.preset("sentiment")
TEXTS = ["dreadful food", "lovely, lovely rooms", "a phone", "it was bad"] * 12
TRUTH = np.array([0, 4, 2, 1] * 12)
SCHEDULE = Schedule(epochs=3, patience=3, batch_size=8, learning_rate=1e-3)


@pytest.fixture(autouse=True)
def choice_as_it_was(monkeypatch):
    monkeypatch.setattr(device, "_chosen", None)


def new_student(name="ngram-bag", **settings):
    use_device(RunConfig(**settings))
    vocabulary = train_vocabulary(TEXTS) if name == "tiny-bert" else ()
    return build_classifier(ModelSpec(name, "all", LABELS.names, False, 32, vocabulary), seed=0)


def distil(student, run_config, **options):
    settings = run_config(keys={"distill.epochs": 4, "distill.batch-size": 16}).distill
    loss, soft_labels = OTLoss(make_ground_cost("augmented", LABELS)), 0.9 * np.eye(5)[TRUTH][None] + 0.02
    return distil_student(student, TEXTS, soft_labels, np.ones((1, 48)), loss, settings, seed=1, **options)


def failing(error):
    def batch_loss(logits, rows):
        raise error

    return batch_loss


@pytest.mark.parametrize("score", [None, lambda: 0.0])
def test_full_memory_in_a_step_is_told_with_the_remedies(score):
    model, batch_loss = new_student(), failing(torch.OutOfMemoryError("CUDA out of memory"))
    train = fit_all_epochs if score is None else fit
    with pytest.raises(ModelError, match=r"ngram-bag: the GPU's memory is full; use a smaller distill\.batch-size"):
        train(model, model.encode(TEXTS), batch_loss, *filter(None, (score,)), SCHEDULE, seed=1)


def test_full_memory_in_dp_sgd_is_not_taken_for_a_layer_that_opacus_cannot_treat(monkeypatch):
    pytest.importorskip("opacus")
    model = new_student()
    items = model.encode(TEXTS)
    real, calls = model.batch_logits, []

    def full_at_the_third(batch):
        calls.append(batch)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(batch)

    monkeypatch.setattr(model, "batch_logits", full_at_the_third)
    with pytest.raises(ModelError, match="the GPU's memory is full"):
        fit_privately(model, items, TRUTH, PrivateSchedule(2, 1.0, 1.0, 1.0, 0.01), source=NoiseSource())


def test_dp_sgd_computes_in_float32_whose_rounding_its_noise_covers():
    model = new_student("tiny-bert", precision="bfloat16")
    assert model.autocast_dtype == torch.bfloat16
    with _private_training(model):
        assert model.autocast_dtype is None
    assert model.autocast_dtype == torch.bfloat16


def test_a_student_in_bfloat16_learns_as_one_in_float32(run_config):
    results = {}
    for precision in ("float32", "bfloat16"):
        student = new_student("tiny-bert", precision=precision, device="cpu")
        results[precision] = distil(student, run_config)
        assert all(value.dtype == np.float32 for value in trained_state(student).values() if value.dtype.kind == "f")
    exact, rounded = results.values()
    assert rounded.train_losses != exact.train_losses
    np.testing.assert_allclose(rounded.train_losses, exact.train_losses, rtol=0.05)
    np.testing.assert_allclose(rounded.validation_losses, exact.validation_losses, rtol=0.05)


def test_a_diverged_loss_on_a_cpu_is_told_with_its_step():
    model = new_student()
    with pytest.raises(ModelError, match="the loss cross-entropy is nan in step 1 of epoch 1, at a learning rate of"):
        fit_all_epochs(model, model.encode(TEXTS), lambda logits, rows: logits.sum() * torch.nan, SCHEDULE, seed=1)


@pytest.mark.gpu
def test_a_diverged_loss_on_a_gpu_is_told_with_its_epoch():
    model = new_student()
    with pytest.raises(ModelError, match="the loss cross-entropy is nan in epoch 1, at a learning rate of"):
        fit_all_epochs(model, model.encode(TEXTS), lambda logits, rows: logits.sum() * torch.nan, SCHEDULE, seed=1)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["ngram-bag", "tiny-bert"])
def test_a_student_on_a_gpu_learns_as_on_a_cpu(run_config, name):
    results = {}
    for place in ("cpu", "cuda"):
        student = new_student(name, device=place, precision="float32")
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # each device draws its own
        results[place] = distil(student, run_config)
    on_cpu, on_gpu = results.values()
    np.testing.assert_allclose(on_gpu.train_losses, on_cpu.train_losses, rtol=0.02)
    np.testing.assert_allclose(on_gpu.validation_losses, on_cpu.validation_losses, rtol=0.02)
    assert 0 < on_gpu.seconds_in_loss < on_gpu.seconds


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"precision": "float32"}])
def test_a_student_on_a_gpu_learns_from_soft_and_true_labels_in_both_precisions(run_config, settings):
    student = new_student("tiny-bert", **settings)
    examples = LabelledTexts(tuple(TEXTS), TRUTH)
    supervision = PublicCrossEntropy(student, examples, weight=0.5, weigh_classes="balanced", seed=1)
    result = distil(student, run_config, supervision=supervision)
    assert result.validation_losses[result.best_epoch] < result.validation_losses[0]
    assert predict_soft_labels(student, TEXTS).dtype == np.float32


@pytest.mark.gpu
def test_a_distillation_on_a_gpu_resumes_with_the_same_student(run_config):
    kept, whole, resumed = [], new_student("tiny-bert"), new_student("tiny-bert")
    distil(whole, run_config, on_epoch=kept.append)
    distil(resumed, run_config, start=kept[2])
    for name, value in trained_state(whole).items():
        np.testing.assert_allclose(trained_state(resumed)[name], value, atol=1e-5, err_msg=name)


@pytest.mark.gpu
def test_no_step_on_a_gpu_waits_for_its_loss():
    model = new_student("tiny-bert")
    batch_loss = CrossEntropy(TRUTH, 5, "balanced")
    items, schedule = model.encode(TEXTS), replace(SCHEDULE, epochs=1)
    fit_all_epochs(model, items, batch_loss, schedule, seed=1)
    waits = []

    def watched(logits, rows):
        torch.cuda.set_sync_debug_mode("warn" if len(rows) == 8 else "default")
        waits.append(len(rows))
        return batch_loss(logits, rows)

    try:
        with pytest.warns(UserWarning, match="synchronizing CUDA operation") as told:
            fit_all_epochs(model, items, watched, schedule, seed=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(told) < len(waits)  # one for the epoch's loss, none for each step


@pytest.mark.gpu
def test_dp_sgd_trains_on_a_gpu():
    pytest.importorskip("opacus", reason="Opacus is not installed")
    model = new_student("tiny-bert")
    fit_privately(model, model.encode(TEXTS), TRUTH, PrivateSchedule(3, 0.5, 1.0, 1.0, 0.01), source=NoiseSource())
    assert all(np.isfinite(value).all() for value in trained_state(model).values())


@pytest.mark.gpu
def test_a_compiled_student_learns_as_one_that_is_not(run_config):
    losses = []
    for compiled in (False, True):
        student = new_student("tiny-bert", precision="float32", compile=compiled)
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        losses.append(distil(student, run_config).train_losses)
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


def test_the_loss_of_unknown_kl_is_timed(run_config):
    student = new_student()
    settings = run_config(keys={"distill.epochs": 1}).distill
    result = distil_student(student, TEXTS, np.eye(5)[TRUTH][None], np.ones((1, 48)), ForwardKL(), settings, seed=1)
    assert 0 < result.seconds_in_loss < result.seconds
