import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from knot_fed.data.reviews import builtin_examples, builtin_texts
from knot_fed.errors import ModelError
from knot_fed.labels import LabelSpace, check_soft_labels
from knot_fed.models import (
    ModelSpec,
    build_classifier,
    load_classifier,
    load_trained_state,
    save_classifier,
    train_vocabulary,
    trained_state,
)
from knot_fed.models.huggingface.head import HeadClassifier
from knot_fed.training.confidence import prediction_bias, prediction_confidence
from knot_fed.training.fitting import Schedule, fit, fit_all_epochs
from knot_fed.training.teacher import predict_soft_labels, train_teacher
from knot_fed.types import LabelledTexts, SplitExamples

SENTIMENT = LabelSpace.preset("sentiment")
TEXTS = builtin_texts("forum")[:40]
PAIRS = tuple(zip(TEXTS[:20], TEXTS[20:], strict=True))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small BERT with random parameters in a folder, as downloaded from a hub."""
    folder = tmp_path_factory.mktemp("encoder")
    save_classifier(build_classifier(spec_of("tiny-bert", vocabulary=train_vocabulary(TEXTS, 300)), seed=1), folder)
    (folder / "knot_fed.json").unlink()
    return f"hf:{folder}"


def spec_of(name, *, trainable="all", paired=False, vocabulary=(), labels=SENTIMENT.names):
    return ModelSpec(name, trainable, labels, paired, 32, vocabulary)


@pytest.fixture(params=["ngram-bag", "tiny-bert", "hf-all", "hf-head"])
def make_spec(request, encoder):
    def make(*, paired):
        if request.param.startswith("hf"):
            return spec_of(encoder, trainable=request.param.removeprefix("hf-"), paired=paired)
        return spec_of(request.param, paired=paired, vocabulary=train_vocabulary(TEXTS, 300))

    return make


@pytest.mark.parametrize("paired", [False, True])
def test_every_model_predicts_the_same_in_any_order_and_after_saving(make_spec, paired, tmp_path):
    texts = PAIRS if paired else TEXTS
    model = build_classifier(make_spec(paired=paired), seed=2)
    rows = predict_soft_labels(model, texts)
    check_soft_labels(rows)
    np.testing.assert_allclose(predict_soft_labels(model, texts[::-1])[::-1], rows, atol=1e-6)
    save_classifier(model, tmp_path / "saved")
    loaded = load_classifier(tmp_path / "saved")
    assert loaded.spec == model.spec
    np.testing.assert_array_equal(predict_soft_labels(loaded, texts), rows)
    bias = prediction_bias([model], seed=1)
    assert np.isclose(bias.sum(), 1, atol=1e-5)
    assert (prediction_confidence(rows, bias) <= np.sqrt(2)).all()


@pytest.mark.parametrize("paired", [False, True])
def test_logits_divided_in_the_parameters_are_divided_for_every_text(make_spec, paired):
    texts = PAIRS if paired else TEXTS
    model = build_classifier(make_spec(paired=paired), seed=2)
    flat = predict_soft_labels(model, texts, temperature=2.5)
    assert model.divide_logits(2.5)
    np.testing.assert_allclose(predict_soft_labels(model, texts), flat, atol=1e-6)


def test_a_network_without_a_known_output_layer_is_left_as_it_is(encoder):
    model = build_classifier(spec_of(encoder), seed=2)
    model.network.classifier = torch.nn.AdaptiveAvgPool1d(len(SENTIMENT.names))
    rows = predict_soft_labels(model, TEXTS)
    assert not model.divide_logits(2.5)
    np.testing.assert_array_equal(predict_soft_labels(model, TEXTS), rows)


def test_kept_answers_are_those_of_these_parameters_and_texts(tmp_path):
    model, other = (build_classifier(spec_of("ngram-bag"), seed=seed) for seed in (1, 2))
    rows = predict_soft_labels(model, TEXTS, kept=tmp_path)
    (kept,) = tmp_path.iterdir()
    flat = predict_soft_labels(model, TEXTS, temperature=2.0, kept=tmp_path)
    np.testing.assert_array_equal(flat, predict_soft_labels(model, TEXTS, temperature=2.0))
    assert list(tmp_path.iterdir()) == [kept]
    for asked, texts in ((other, TEXTS), (model, TEXTS[:1])):
        np.testing.assert_array_equal(
            predict_soft_labels(asked, texts, kept=tmp_path), predict_soft_labels(asked, texts)
        )
    (kept / "logits.npy").write_bytes(b"torn")
    np.testing.assert_array_equal(predict_soft_labels(model, TEXTS, kept=tmp_path), rows)


@pytest.mark.parametrize("paired", [False, True])
def test_the_state_alone_carries_a_model_over(make_spec, paired):
    texts = PAIRS if paired else TEXTS
    source, target = (build_classifier(make_spec(paired=paired), seed=seed) for seed in (1, 2))
    load_trained_state(target, trained_state(source))
    np.testing.assert_array_equal(predict_soft_labels(target, texts), predict_soft_labels(source, texts))


def test_the_same_seed_builds_the_same_parameters(make_spec):
    first, second = (trained_state(build_classifier(make_spec(paired=False), seed=3)) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_a_whole_classifier_loads_in_transformers_without_this_package(encoder, tmp_path):
    model = build_classifier(spec_of(encoder), seed=2)
    save_classifier(model, tmp_path / "student")
    script = (
        "import sys, transformers as t, torch\n"
        f"m = t.AutoModelForSequenceClassification.from_pretrained({str(tmp_path / 'student')!r}).eval()\n"
        f"k = t.AutoTokenizer.from_pretrained({str(tmp_path / 'student')!r})\n"
        f"print(m(**k({TEXTS[0]!r}, return_tensors='pt')).logits.softmax(1)[0].tolist(), m.config.id2label[4])\n"
        "assert 'knot_fed' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    expected = predict_soft_labels(model, TEXTS[:1])[0]
    printed = [float(value) for value in run.stdout.partition("[")[2].partition("]")[0].split(",")]
    np.testing.assert_allclose(printed, expected, atol=1e-5)
    assert run.stdout.strip().endswith("very positive")


def test_frozen_features_are_kept_and_the_encoder_is_not_loaded_again(encoder, tmp_path, monkeypatch):
    spec = spec_of(encoder, trainable="head")
    rows = predict_soft_labels(build_classifier(spec, seed=1, feature_cache=tmp_path), TEXTS)
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda *_: pytest.fail("the encoder was loaded"))
    again = build_classifier(spec, seed=1, feature_cache=tmp_path)
    np.testing.assert_array_equal(predict_soft_labels(again, TEXTS), rows)


def test_only_the_head_is_trained_on_a_frozen_encoder(encoder):
    model = build_classifier(spec_of(encoder, trainable="head"), seed=1)
    assert isinstance(model, HeadClassifier)
    assert all(name.startswith("head.") for name in trained_state(model))


def test_a_teacher_learns_its_own_domain_better_than_chance_and_than_another(run_config):
    settings = run_config(keys={"teacher.epochs": 12}).teacher
    phones, hotels = (builtin_examples(domain, SENTIMENT) for domain in ("phones", "hotels"))
    teacher = train_teacher(spec_of("ngram-bag"), phones, settings, seed=1)
    own, other = (
        (predict_soft_labels(teacher, part.test.texts).argmax(axis=1) == part.test.labels).mean()
        for part in (phones, hotels)
    )
    assert own > 0.85
    assert own > other + 0.1


def test_training_without_selection_is_training_whose_score_always_rises():
    labels, schedule = torch.arange(len(TEXTS)) % 5, Schedule(epochs=3, patience=1, batch_size=16, learning_rate=0.0)
    selected, unselected = (build_classifier(spec_of("ngram-bag"), seed=1) for _ in range(2))
    rising = iter(range(9))

    def loss(logits, rows):
        return torch.nn.functional.cross_entropy(logits, labels[rows])

    fit(selected, selected.encode(TEXTS), loss, lambda: float(next(rising)), schedule, seed=2)
    fit_all_epochs(unselected, unselected.encode(TEXTS), loss, schedule, seed=2)
    first, second = trained_state(selected), trained_state(unselected)
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("scheme", ["balanced", "logit-adjusted", "auto"])
def test_class_weights_help_a_rare_class(run_config, scheme):
    examples = builtin_examples("phones", SENTIMENT)
    rare = np.concatenate([np.flatnonzero(examples.train.labels != 4), np.flatnonzero(examples.train.labels == 4)[:12]])
    split = SplitExamples(examples.train.select(rare), examples.val, examples.test)
    recalls = []
    for used in ("none", scheme):
        settings = run_config(keys={"teacher.class-weights": used, "teacher.epochs": 4}).teacher
        teacher = train_teacher(spec_of("ngram-bag"), split, settings, seed=1)
        truth = LabelledTexts(examples.test.texts, examples.test.labels).labels == 4
        recalls.append((predict_soft_labels(teacher, examples.test.texts)[truth].argmax(axis=1) == 4).mean())
    assert recalls[1] > recalls[0]


@pytest.mark.parametrize("name", ["bert", "hf:/nowhere/at/all"])
def test_an_unknown_model_is_one_sentence(name):
    with pytest.raises(ModelError, match="hub id or absolute folder"):
        build_classifier(spec_of(name), seed=1)


def test_states_and_specifications_that_do_not_fit_are_refused():
    model = build_classifier(spec_of("ngram-bag"), seed=1)
    state = trained_state(model)
    with pytest.raises(ModelError, match="1 of 3 arrays do not fit"):
        load_trained_state(model, state | {"head.bias": np.zeros(4, dtype=np.float32)})
    with pytest.raises(ModelError, match="not numbers"):
        load_trained_state(model, state | {"head.bias": np.array(list("abcde"), dtype=object)})
    with pytest.raises(ModelError, match="save the model again"):
        ModelSpec.from_json("{}")
    assert torch.isfinite(model.head.bias).all()


def test_vocabularies_are_the_same_on_every_call():
    assert train_vocabulary(TEXTS, 300) == train_vocabulary(TEXTS, 300)


def test_a_client_loads_neither_transformers_nor_numba_before_it_needs_them():
    code = (
        "import sys, knot_fed.client_app; print(sorted({'transformers', 'numba', 'matplotlib', 'ot'} & {*sys.modules}))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
