"""Adapters by LoRA: what is trained, kept, sent and merged, and what is refused."""

import importlib.util
import json

import numpy as np
import pytest
import torch
import transformers

from knot_fed.config import LoraConfig
from knot_fed.config.choices import MODELS
from knot_fed.errors import ConfigError, ModelError, PrivacyError
from knot_fed.models import (
    ModelSpec,
    build_classifier,
    check_model_name,
    load_classifier,
    load_trained_state,
    merge_adapters,
    model_identity,
    predict_logits,
    run_spec,
    save_classifier,
    trained_state,
    try_model,
)
from knot_fed.privacy.noise import NoiseSource
from knot_fed.training.dp_sgd import PrivateSchedule, check_treatable, fit_privately
from knot_fed.training.fitting import Schedule, fit_all_epochs
from tests.models.tiny_models import FAMILIES, TEXTS, write_bert, write_family, write_trained

LABELS = ("bad", "so so", "good")
READ = tuple(TEXTS[:20])
DECODERS = ("gpt-2 without padding", "llama without padding", "qwen without padding")
WITH_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None


def spec_of(name, **settings):
    return ModelSpec(name, "lora", LABELS, paired=False, max_length=64, lora=LoraConfig(**settings))


def trained(model, epochs=8, rate=1e-2):
    labels = torch.arange(len(READ)) % 3
    schedule = Schedule(epochs=epochs, patience=epochs, batch_size=10, learning_rate=rate)
    return fit_all_epochs(
        model,
        model.encode(READ),
        lambda logits, rows: torch.nn.functional.cross_entropy(logits, labels[rows]),
        schedule,
        seed=1,
    )


def logits_of(model):
    return predict_logits(model, model.encode(READ))


@pytest.mark.parametrize(
    ("family", "targets"), [*((family, "") for family in FAMILIES), ("bert", "all-linear"), (DECODERS[0], "all-linear")]
)
def test_a_family_is_trained_by_adapters_kept_and_merged(tmp_path, family, targets):
    spec = spec_of(write_family(tmp_path / "m", family), targets=targets)
    assert try_model(spec, READ).parameters > 0
    model = build_classifier(spec, seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = trained(model)
    assert min(losses) < losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= set(trained_state(model))
    assert any(".lora_A." in name for name in changed)
    save_classifier(model, tmp_path / "kept")
    np.testing.assert_array_equal(logits_of(load_classifier(tmp_path / "kept")), logits_of(model))
    save_classifier(merge_adapters(model), tmp_path / "student")
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    np.testing.assert_allclose(logits_of(load_classifier(tmp_path / "student")), logits_of(model), rtol=1e-3, atol=1e-4)


def test_new_adapters_change_no_answer(tmp_path):
    name = write_trained(tmp_path, LABELS)
    whole = build_classifier(ModelSpec(name, "all", LABELS, paired=False, max_length=64), seed=1)
    model = build_classifier(spec_of(name), seed=1)
    assert model.starts_ready
    np.testing.assert_array_equal(logits_of(model), logits_of(whole))


def test_another_process_rebuilds_the_model_from_its_base_and_the_trained_state(tmp_path):
    """Arrays that the files lack, such as this pooler, are drawn by each process, so they belong to the state."""
    spec = spec_of(write_bert(tmp_path, "BertForMaskedLM"))
    model = build_classifier(spec, seed=1)
    trained(model)
    state = trained_state(model)
    assert any("pooler" in name for name in state)
    assert sum(value.size for value in state.values()) < sum(p.numel() for p in model.parameters()) / 4
    other = build_classifier(ModelSpec.from_json(spec.to_json()), seed=2)
    load_trained_state(other, state)
    np.testing.assert_array_equal(logits_of(other), logits_of(model))


def test_the_identity_depends_on_the_adapters_settings_and_that_of_other_models_does_not(tmp_path):
    name = write_bert(tmp_path)
    assert model_identity(spec_of(name)) != model_identity(spec_of(name, rank=4))
    plain = ModelSpec(name, "all", LABELS, paired=False, max_length=64)
    assert "lora" not in plain.to_json()
    assert ModelSpec.from_json(spec_of(name, rank=4).to_json()) == spec_of(name, rank=4)


@pytest.mark.parametrize("changes", [{"rank": 0}, {"rank": 1_000_000}, {"targets": "(a+)+$"}, {"odd": 1}])
def test_a_peers_specification_with_settings_out_of_bounds_is_refused(changes):
    described = spec_of("hf:a").to_mapping()
    with pytest.raises(ModelError, match=r"not what ModelSpec.to_json writes"):
        ModelSpec.from_json(json.dumps(described | {"lora": described["lora"] | changes}))


def test_layers_are_named_and_unknown_names_are_refused_with_the_known(tmp_path):
    name = write_bert(tmp_path)
    model = build_classifier(spec_of(name, targets="query, output.dense"), seed=1)
    adapted = {key.rpartition(".lora_A")[0] for key in trained_state(model) if ".lora_A" in key}
    assert {key.rpartition(".")[2] for key in adapted} == {"query", "dense"}
    with pytest.raises(
        ModelError, match=r"no linear layer is called wq \(lora.targets\); use some of dense, key, query"
    ):
        build_classifier(spec_of(name, targets="wq"), seed=1)


def test_a_missing_peft_is_told_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("knot_fed.models.huggingface.lora.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"needs PEFT, which is not installed; pip install 'knot-fed\[lora\]'"):
        try_model(spec_of(write_bert(tmp_path)))


def test_a_missing_bitsandbytes_is_told_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "knot_fed.models.huggingface.lora.find_spec", lambda name: None if name == "bitsandbytes" else True
    )
    with pytest.raises(ModelError, match=r"'4bit' needs bitsandbytes, .* pip install 'knot-fed\[quantised\]'"):
        build_classifier(spec_of(write_bert(tmp_path), quantize="4bit"), seed=1)


@pytest.mark.skipif(not WITH_BITSANDBYTES, reason="needs bitsandbytes")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("family", ["bert", "llama without padding"])
def test_adapters_on_a_quantised_base_are_trained_kept_and_answer_nearly_as_in_float32(tmp_path, family, bits):
    name = write_family(tmp_path / "m", family)
    model, plain = (build_classifier(spec_of(name, quantize=kind), seed=1) for kind in (bits, "none"))
    assert set(trained_state(model)) == set(trained_state(plain))
    load_trained_state(model, trained_state(plain))
    assert 0 < np.abs(logits_of(model) - logits_of(plain)).max() < 0.3 * np.abs(logits_of(plain)).max()
    losses = trained(model)
    assert min(losses) < losses[0]
    save_classifier(model, tmp_path / "kept")
    np.testing.assert_allclose(logits_of(load_classifier(tmp_path / "kept")), logits_of(model), atol=1e-5)


def test_only_teachers_are_quantised(run_config):
    config = run_config(**{"trainable": "lora", "lora.quantize": "4bit", "model": "hf:a", "student.pretrain": False})
    teacher, student = (run_spec(config, "hf:a", paired=False, teacher=of_client) for of_client in (True, False))
    assert (teacher.lora.quantize, student.lora.quantize) == ("4bit", "none")


@pytest.mark.parametrize("family", ["bert", "roberta", *DECODERS])
def test_dp_sgd_trains_adapters_and_nothing_else(tmp_path, family):
    model = build_classifier(spec_of(write_family(tmp_path, family)), seed=1)
    check_treatable(model, READ)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    schedule = PrivateSchedule(steps=2, sampling_rate=0.5, clipping_norm=1.0, noise_multiplier=1.0, learning_rate=0.01)
    fit_privately(model, model.encode(READ), np.arange(len(READ)) % 3, schedule, source=NoiseSource())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= set(trained_state(model))


def test_dp_sgd_refuses_quantised_layers(tmp_path):
    model = build_classifier(spec_of(write_bert(tmp_path)), seed=1)
    model.spec = spec_of(model.spec.name, quantize="8bit")
    with pytest.raises(
        PrivacyError, match=r"does not cover the rounding of quantised layers; use lora.quantize = 'none'"
    ):
        check_treatable(model, READ)


@pytest.mark.parametrize("family", ["bert", *DECODERS])
def test_adapters_train_under_autocast_with_float32_logits(tmp_path, family):
    model = build_classifier(spec_of(write_family(tmp_path, family)), seed=1)
    plain = logits_of(model)
    model.autocast_dtype = torch.bfloat16
    half = logits_of(model)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - plain).max() < 0.1 * np.abs(plain).max()
    losses = trained(model)
    assert min(losses) < losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_other_models_of_such_a_run_are_trained_whole(run_config):
    config = run_config(**{"trainable": "lora", "model": "hf:a", "student.model": "tiny-bert"})
    assert run_spec(config, "tiny-bert", paired=False, teacher=False).trainable == "all"
    assert run_spec(config, "hf:a", paired=False, teacher=True).lora == config.lora


def test_targets_are_names_of_layers_only(run_config):
    with pytest.raises(
        ConfigError, match=r"lora.targets = '.*': use names of layers separated by commas, or all-linear"
    ):
        run_config(**{"lora.targets": "(a+)+$"})


def test_the_refusal_of_a_name_lists_the_registry():
    with pytest.raises(ModelError) as refused:
        check_model_name("odd")
    assert all(name in str(refused.value) for name in MODELS)
