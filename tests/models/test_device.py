"""The device and the precision of a process's models; what needs a GPU is marked so."""

import numpy as np
import pytest
import torch

from knot_fed.config import RunConfig
from knot_fed.data.reviews import builtin_texts
from knot_fed.errors import ConfigError, ModelError
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, batches, build_classifier, device, model_identity, predict_logits, use_device
from knot_fed.models.batches import _ahead
from knot_fed.preflight.run import check_run
from knot_fed.training.confidence import prediction_bias
from tests.models.tiny_models import write_bert

NAMES = LabelSpace.preset("sentiment").names
TEXTS = builtin_texts("forum")[:30]


@pytest.fixture(autouse=True)
def choice_as_it_was(monkeypatch):
    monkeypatch.setattr(device, "_chosen", None)


@pytest.fixture
def spec(tmp_path):
    return lambda trainable="all": ModelSpec(write_bert(tmp_path / "bert"), trainable, NAMES, False, 64)


def chosen(**settings):
    use_device(RunConfig(**settings))
    return device.placement()


def without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_gpu_the_server_is_refused_before_anything_starts_and_a_client_computes_on_its_cpu(
    run_config, monkeypatch
):
    without_a_gpu(monkeypatch)
    config = run_config(device="cuda")
    for refused in (lambda: check_run(config, clients=3), lambda: use_device(config, required=True)):
        with pytest.raises(ConfigError, match="device = 'cuda', but torch sees no GPU here; use device = 'auto', or"):
            refused()
    use_device(config)
    assert device.placement() == device.Placement()


@pytest.mark.parametrize("settings", [{}, {"device": "cpu"}, {"precision": "float32"}, {"compile": True}])
def test_on_a_cpu_the_default_precision_is_float32_and_nothing_is_compiled(settings, monkeypatch):
    without_a_gpu(monkeypatch)
    assert chosen(**settings) == device.Placement()


def test_bfloat16_is_for_transformers_and_their_logits_stay_float32(spec, monkeypatch):
    without_a_gpu(monkeypatch)
    whole = build_classifier(spec(), seed=1)
    exact = predict_logits(whole, whole.encode(TEXTS))
    chosen(precision="bfloat16")
    model = build_classifier(spec(), seed=1)
    logits = model.logits(model.encode(TEXTS))
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters() if parameter.grad is not None)
    rounded = predict_logits(model, model.encode(TEXTS))
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.05)
    bag = build_classifier(ModelSpec("ngram-bag", "all", NAMES, False, 64), seed=1)
    assert bag.autocast_dtype is None


def test_a_teacher_in_bfloat16_is_another_teacher_and_a_bag_of_ngrams_is_not(spec):
    bag = ModelSpec("ngram-bag", "all", NAMES, False, 64)
    specs = [spec(), spec("head"), bag]
    before = [model_identity(one) for one in specs]
    chosen(precision="bfloat16")
    assert [model_identity(one) == then for one, then in zip(specs, before, strict=True)] == [False, False, True]


def test_features_in_bfloat16_are_kept_apart_from_exact_ones(spec, tmp_path):
    exact, rounded = (
        build_classifier(spec("head"), seed=1, feature_cache=tmp_path / "features").encode(TEXTS)
        for _ in (chosen(precision=precision) for precision in ("float32", "bfloat16"))
    )
    assert len(list((tmp_path / "features").iterdir())) == 2
    difference = np.abs(np.stack([item[0] for item in exact]) - np.stack([item[0] for item in rounded])).max()
    assert 0 < difference < 0.1


def test_a_trial_of_a_model_is_in_float32_on_the_cpu(spec):
    chosen(precision="bfloat16")
    assert build_classifier(spec(), seed=1, device="cpu").autocast_dtype is None


@pytest.mark.parametrize("name", ["ngram-bag", "hf"])
def test_batches_that_are_made_ahead_are_those_of_a_cpu_in_the_same_order(spec, name):
    model = build_classifier(spec() if name == "hf" else ModelSpec(name, "all", NAMES, False, 64), seed=1)
    items, order = model.encode(TEXTS), np.random.default_rng(0).permutation(len(TEXTS))
    parts = [order[start : start + 7] for start in range(0, len(order), 7)]
    direct, ahead = list(batches(model, items, parts)), list(_ahead(model, items, parts, pinned=False))
    assert [rows.tolist() for rows, _ in ahead] == [part.tolist() for part in parts]
    for (_, expected), (_, found) in zip(direct, ahead, strict=True):
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_an_error_of_a_batch_that_is_made_ahead_is_raised_where_the_batch_is_used(spec):
    model = build_classifier(spec(), seed=1)
    made = _ahead(model, model.encode(TEXTS), [np.array([0]), np.array([999])], pinned=False)
    assert next(made)[0].tolist() == [0]
    with pytest.raises(IndexError):
        next(made)


def test_a_full_gpu_is_told_in_one_sentence_with_the_remedies():
    sentence = r"bert: the GPU's memory is full; use a smaller .* or device = 'cpu'"
    with pytest.raises(ModelError, match=sentence) as told, device.memory_explained("bert"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    assert "bert" not in told.value.refusal


@pytest.mark.gpu
def test_auto_takes_the_gpu_and_cpu_does_not():
    assert chosen().device.type == "cuda"
    assert chosen(device="cuda") == chosen()
    assert chosen(device="cpu") == device.Placement()


@pytest.mark.gpu
@pytest.mark.parametrize("trainable", ["all", "head"])
def test_a_model_on_a_gpu_answers_as_on_a_cpu(spec, trainable):
    answers = {}
    for name, settings in {"cpu": {"device": "cpu"}, "gpu": {"precision": "float32"}, "bf16": {}}.items():
        chosen(**settings)
        model = build_classifier(spec(trainable), seed=1)
        answers[name] = predict_logits(model, model.encode(TEXTS))
        prediction_bias([model], seed=0)
    np.testing.assert_allclose(answers["gpu"], answers["cpu"], atol=1e-3)
    np.testing.assert_allclose(answers["bf16"], answers["cpu"], atol=0.05)


@pytest.mark.gpu
def test_a_batch_for_a_gpu_is_pinned(spec):
    model = build_classifier(spec(), seed=1)
    for _, batch in batches(model, model.encode(TEXTS), [range(20), range(20, 30)]):
        assert all(value.is_pinned() for value in batch.values())
