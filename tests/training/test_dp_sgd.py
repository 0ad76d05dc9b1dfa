from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from knot_fed.errors import PrivacyError
from knot_fed.models import ModelSpec, build_classifier, predict_logits, train_vocabulary, trained_state
from knot_fed.privacy.noise import GRID_BITS, NoiseSource
from knot_fed.training.dp_optimiser import BATCH_ROUNDING, ExactDPOptimizer
from knot_fed.training.dp_sgd import PrivateSchedule, _private_training, check_treatable, fit_privately
from tests.models.tiny_models import IN_GPT, IN_ROBERTA, IN_T5, READS, SIZES, tokenizer_of, write_model

TEXTS = ["a fine day", "bad, bad food", "so good", "it is awful"] * 8
LABELS = np.array([1, 0, 1, 0] * 8)
NOISELESS = PrivateSchedule(steps=30, sampling_rate=0.5, clipping_norm=1.0, noise_multiplier=1e-4, learning_rate=0.05)
UNTREATABLE = {
    "GPT2Model": ("gpt", IN_GPT),
    "T5Model": ("t5", IN_T5),
    "RoFormerModel": ("words", SIZES | READS),
    "OPTModel": ("roberta", {**SIZES, **READS, **IN_ROBERTA, "ffn_dim": 64, "word_embed_proj_dim": 32}),
}


def spec(name):
    return ModelSpec(name, "all", ("bad", "good"), False, 16, train_vocabulary(TEXTS) if name == "tiny-bert" else ())


def trained(name, schedule, *, texts=TEXTS, labels=LABELS, key=None):
    model = build_classifier(spec(name), seed=1)
    fit_privately(model, model.encode(texts), labels, schedule, source=NoiseSource(key))
    return model


@pytest.mark.parametrize("name", ["ngram-bag", "tiny-bert"])
def test_without_noise_it_learns_what_is_plain_and_leaves_no_trace_of_opacus(name):
    schedule = replace(NOISELESS, learning_rate=0.05 if name == "ngram-bag" else 0.003)
    model = trained(name, schedule, key=bytes(32))
    assert (predict_logits(model, model.encode(TEXTS)).argmax(axis=1) == LABELS).all()
    assert all(parameter.requires_grad and not hasattr(parameter, "grad_sample") for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    left_alone = [key for key in trained_state(model) if key.startswith(model.frozen_under_dp_sgd)]
    start = trained_state(build_classifier(spec(name), seed=1))
    assert left_alone
    assert all(np.array_equal(trained_state(model)[key], start[key]) for key in left_alone)


def test_one_step_is_the_sum_of_clipped_gradients(monkeypatch):
    """By another route: torch's own gradient of each example, clipped by hand."""
    seen = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: seen.append(
        torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]]).clone()
    ))  # fmt: skip
    trained("ngram-bag", PrivateSchedule(1, 1.0, 0.1, 1e-4, 0.05))
    model = build_classifier(spec("ngram-bag"), seed=1).eval()
    total = torch.zeros_like(seen[0])
    for item, label in zip(model.encode(TEXTS), LABELS, strict=True):
        loss = nn.functional.cross_entropy(model.logits([item]), torch.tensor([label]))
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.head.parameters()))])
        total += gradient * min(1.0, 0.1 / float(gradient.norm()))
    assert seen[0].numpy() == pytest.approx(total.numpy(), abs=2e-4)


def test_noise_has_the_deviation_asked_even_when_nothing_is_sampled(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: seen.append(
        torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]]).clone()
    ))  # fmt: skip
    trained("ngram-bag", PrivateSchedule(300, 1e-9, 0.5, 3.0, 0.05))
    assert len(seen) == 300
    assert float(torch.cat(seen).std()) == pytest.approx(1.5, rel=0.05)


def test_fresh_randomness_gives_another_teacher_from_the_same_seed_of_parameters():
    schedule = PrivateSchedule(3, 0.5, 1.0, 1.0, 0.05)
    keys = (bytes(32), None, bytes(32))
    first, second, third = (trained_state(trained("ngram-bag", schedule, key=key)) for key in keys)
    assert not np.array_equal(first["head.weight"], second["head.weight"])
    assert np.array_equal(first["head.weight"], third["head.weight"])


class Everyone(NoiseSource):
    """Takes every example."""

    def coins(self, count, *, probability):
        return np.ones(count, dtype=bool)


NORM, NOISE = 0.3, 0.5


def summed(monkeypatch, texts, labels):
    """Return one step's sum of clipped gradients, in integer steps of the grid, before noise."""
    seen, add_noise = [], ExactDPOptimizer.add_noise

    def noticed(self):
        seen.append(torch.cat([parameter.summed_grad.flatten() for parameter in self.params]).numpy())
        add_noise(self)

    with monkeypatch.context() as patch:
        patch.setattr(ExactDPOptimizer, "add_noise", noticed)
        model = build_classifier(spec("ngram-bag"), seed=1)
        schedule = PrivateSchedule(1, 1.0, NORM, NOISE, 0.05)
        fit_privately(model, model.encode(texts), labels, schedule, source=Everyone())
    return seen[0]


def test_one_record_moves_a_sum_by_no_more_than_the_clipping_norm(monkeypatch):
    """Sums add no rounding errors, whatever their order; the noise covers those of the gradients."""
    texts, labels = TEXTS * 5, np.tile(LABELS, 5)
    whole, step = summed(monkeypatch, texts, labels), NORM * NOISE * (1 + BATCH_ROUNDING) / 2.0**GRID_BITS
    for left_out in (0, 63, 64, 100, len(texts) - 1):
        rest = np.delete(np.arange(len(texts)), left_out)
        other = summed(monkeypatch, [texts[row] for row in rest], labels[rest])
        assert np.linalg.norm((whole - other) * step) <= NORM * (1 + BATCH_ROUNDING)
        assert (whole != other).any()
    order = np.random.default_rng(3).permutation(len(texts))
    np.testing.assert_array_equal(summed(monkeypatch, [texts[row] for row in order], labels[order]), whole)


def test_an_example_whose_gradient_is_not_finite_counts_as_nothing(monkeypatch):
    clean = summed(monkeypatch, TEXTS[:1], LABELS[:1])
    whole, broken = nn.functional.cross_entropy, torch.tensor([[1.0], [float("nan")]])

    def poisoned(logits, targets, reduction):
        return whole(logits * broken[: len(logits)], targets, reduction=reduction)

    monkeypatch.setattr(nn.functional, "cross_entropy", poisoned)
    np.testing.assert_allclose(summed(monkeypatch, TEXTS[:2], LABELS[:2]), clean, rtol=1e-5)


def test_no_dropout_is_left_on_inside_attention_either():
    """As modules and as rates: two passes of tiny-bert in training mode agree, and afterwards the rates are back."""
    model = build_classifier(spec("tiny-bert"), seed=1)
    model.train()
    items = model.encode(TEXTS[:4])
    assert not torch.equal(model.logits(items), model.logits(items))
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    with _private_training(model):
        assert torch.equal(model.logits(items), model.logits(items))
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == rates
    fit_privately(model, model.encode(TEXTS), LABELS, replace(NOISELESS, steps=2), source=NoiseSource())


class Restless(nn.Module):
    """Draws random numbers whatever its rates are."""

    def forward(self, features):
        return features + torch.rand_like(features)


def test_a_model_that_draws_random_numbers_as_it_trains_is_refused():
    model = build_classifier(spec("ngram-bag"), seed=1)
    model.dropout = Restless()
    with pytest.raises(PrivacyError, match="one that draws random numbers"):
        fit_privately(model, model.encode(TEXTS), LABELS, NOISELESS, source=NoiseSource())
    with pytest.raises(PrivacyError, match="one that draws random numbers"):
        check_treatable(model, TEXTS[:1])


def test_noise_too_small_for_a_sum_of_whole_numbers_is_refused():
    with pytest.raises(PrivacyError, match=r"too small for a sum of 32 gradients; ask for a smaller privacy\.epsilon"):
        trained("ngram-bag", replace(NOISELESS, noise_multiplier=1e-7, sampling_rate=1.0))


def test_torch_randomness_outside_is_left_alone():
    before = torch.random.get_rng_state()
    trained("ngram-bag", PrivateSchedule(2, 0.5, 1.0, 1.0, 0.05))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_layer_that_opacus_cannot_treat_is_refused_with_the_remedy():
    model = build_classifier(spec("ngram-bag"), seed=1)
    model.head = nn.Sequential(nn.Linear(32, 2), nn.BatchNorm1d(2))
    with pytest.raises(PrivacyError, match=r"ngram-bag: Opacus cannot treat a layer .*; use ngram-bag, tiny-bert"):
        fit_privately(model, model.encode(TEXTS), LABELS, NOISELESS, source=NoiseSource())


@pytest.mark.parametrize("kind", UNTREATABLE)
def test_what_fails_only_with_gradients_of_examples_is_refused_before_private_ones_are_read(tmp_path, kind):
    family, settings = UNTREATABLE[kind]
    name = write_model(tmp_path, kind, tokenizer_of(family), **settings)
    model = build_classifier(replace(spec("hf:"), name=name), seed=1)
    for refused in (
        lambda: check_treatable(model, TEXTS),
        lambda: fit_privately(model, model.encode(TEXTS), LABELS, NOISELESS, source=NoiseSource()),
    ):
        with pytest.raises(PrivacyError, match=r"Opacus cannot treat a layer \(\w+\); use ngram-bag, tiny-bert"):
            refused()


@pytest.mark.parametrize("name", ["ngram-bag", "tiny-bert"])
def test_a_check_changes_no_parameter_and_leaves_nothing_behind(name):
    model = build_classifier(spec(name), seed=1)
    before = trained_state(model)
    check_treatable(model, TEXTS)
    assert all(np.array_equal(value, before[key]) for key, value in trained_state(model).items())
    assert not any(getattr(parameter, "grad_sample", None) is not None for parameter in model.parameters())


def test_without_opacus_nothing_is_trained(monkeypatch):
    monkeypatch.setattr("knot_fed.training.dp_sgd.find_spec", lambda name: None)
    with pytest.raises(PrivacyError, match=r"not installed; pip install 'knot-fed\[privacy\]'"):
        trained("ngram-bag", NOISELESS)
