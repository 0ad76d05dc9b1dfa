"""Prompted teachers: scores by another route, calibration, cuts, and what is refused."""

import numpy as np
import pytest
import torch

from knot_fed.config import PromptConfig, TeacherConfig
from knot_fed.errors import ConfigError, ModelError, PrivacyError
from knot_fed.federation.client.costs import estimate_cost
from knot_fed.mechanisms import TeacherPlan, mechanism_of
from knot_fed.models import ModelSpec, build_classifier, predict_logits, trained_state, try_model
from knot_fed.preflight.run import check_deployed_run
from knot_fed.training.confidence import prediction_bias
from knot_fed.training.kept_teachers import load_or_train_teacher, teacher_digest
from knot_fed.training.teacher import predict_soft_labels, train_teacher
from knot_fed.types import LabelledTexts, SplitExamples
from tests.models.tiny_models import IN_LLAMA, TEXTS, tokenizer_of, write_bert, write_causal, write_family, write_model

LABELS = ("bad", "so_so", "good")
READ = tuple(TEXTS[:20])
FAMILIES = ("gpt-2 without padding", "gpt-2 padding on the left", "llama without padding", "qwen without padding")
SINGLES = ["good", *READ[:4], "a long text " * 90, "</s> [SEP] <|endoftext|> <s> quoted {text_b}", "☃", ""]


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    return write_causal(tmp_path_factory.mktemp("gpt"), "gpt-2 without padding")


def spec_of(name, *, paired=False, max_length=64, **prompt):
    return ModelSpec(name, "all", LABELS, paired, max_length, prompt=PromptConfig(**prompt))


def texts_of(paired):
    return list(zip(SINGLES, SINGLES[::-1], strict=True)) if paired else SINGLES


def scored_one_by_one(model, texts):
    """Read each prompt with each word as one sequence, without padding and cache."""
    rows = []
    for prompt in model.encode(texts):
        row = []
        for word in model._words:
            with torch.no_grad():
                logits = model.network(input_ids=torch.tensor([prompt + word])).logits[0].log_softmax(-1)
            row.append(np.mean([logits[len(prompt) + place - 1, token] for place, token in enumerate(word)]))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_mean_log_probabilities_of_the_words_alone_and_in_a_batch(tmp_path, family, paired):
    spec = spec_of(write_causal(tmp_path, family), paired=paired, calibrate=False)
    model = build_classifier(spec, seed=1)
    assert max(map(len, model._words)) > 1
    texts = texts_of(paired)
    expected = scored_one_by_one(model, texts)
    np.testing.assert_allclose(predict_logits(model, model.encode(texts)), expected, atol=1e-5)
    alone = np.concatenate([predict_logits(model, model.encode([text])) for text in texts])
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_prompts_are_read_in_parts_with_the_same_scores(gpt, monkeypatch):
    model = build_classifier(spec_of(gpt), seed=1)
    whole = predict_logits(model, model.encode(READ))
    monkeypatch.setattr("knot_fed.models.huggingface.prompted.TOKENS_AT_ONCE", 100)
    np.testing.assert_allclose(predict_logits(model, model.encode(READ)), whole, atol=1e-5)


def test_calibrated_soft_labels_are_divided_by_those_of_the_text_without_content(gpt):
    plain, calibrated = (
        predict_soft_labels(build_classifier(spec_of(gpt, calibrate=calibrate), seed=1), ["N/A", *READ])
        for calibrate in (False, True)
    )
    expected = plain / plain[0]
    np.testing.assert_allclose(calibrated, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(calibrated[0], 1 / 3, atol=1e-5)


def test_the_template_and_the_words_are_the_users(gpt):
    model = build_classifier(spec_of(gpt, template="{text} It was ", words="awful, plain, great"), seed=1)
    (prompt,) = model.encode(["The phone broke."])
    assert model.tokenizer.decode(prompt) == "The phone broke. It was "
    assert [model.tokenizer.decode(word) for word in model._words] == ["awful", "plain", "great"]
    default = build_classifier(spec_of(gpt), seed=1)
    assert [default.tokenizer.decode(word) for word in default._words] == [" bad", " so so", " good"]


def test_only_the_text_is_cut_and_a_brace_in_it_is_plain_text(gpt):
    model = build_classifier(spec_of(gpt, paired=True), seed=1)
    prompts = model.encode([("word " * 500, "{text_a}"), ("short", "word " * 500), ("word " * 500, "other " * 500)])
    longest = max(map(len, model._words))
    for prompt in prompts:
        text = model.tokenizer.decode(prompt)
        assert text.startswith("First text: ")
        assert text.endswith("\nLabel:")
        assert len(prompt) + longest <= 64
    assert "Second text: {text_a}" in model.tokenizer.decode(prompts[0])
    short, both = model.tokenizer.decode(prompts[1]), model.tokenizer.decode(prompts[2])
    assert "First text: short\n" in short
    first, second = both.split("\nSecond text: ")
    assert "word" in first
    assert "other" in second


def test_it_is_never_trained_and_reads_no_private_example(gpt, tmp_path):
    """Neither texts nor labels nor their number change an answer, also if all have one label."""
    spec, answers = spec_of(gpt), []
    for texts, labels in ((READ[:6], [0, 1, 2, 0, 1, 2]), (READ[6:10], [1, 1, 1, 1])):
        part = LabelledTexts(texts, np.array(labels))
        examples = SplitExamples(part, part, part)
        teacher, loaded = load_or_train_teacher(spec, examples, TeacherConfig(), seed=1, folder=tmp_path)
        assert not loaded
        assert not [*tmp_path.iterdir()]
        answers.append(predict_soft_labels(teacher, READ))
        assert trained_state(teacher) == {}
        assert teacher_digest(spec, examples, TeacherConfig(), 1) == teacher_digest(
            spec, SplitExamples(part, part, part), TeacherConfig(epochs=3), 1
        )
    np.testing.assert_array_equal(*answers)
    assert "is not trained" in try_model(spec).notes[0]


def test_its_bias_on_random_tokens_is_a_distribution_that_depends_on_the_seed_only(gpt):
    model = build_classifier(spec_of(gpt), seed=1)
    first, again = (prediction_bias([model], seed=1) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first.sum(), 1, atol=1e-5)


def test_answers_under_autocast_are_near_and_float32(gpt):
    model = build_classifier(spec_of(gpt, calibrate=False), seed=1)
    plain = predict_logits(model, model.encode(READ))
    model.autocast_dtype = torch.bfloat16
    half = predict_logits(model, model.encode(READ))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - plain).max() < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "{text_a} and {text_b}"}, "the run has single texts; use {text} in it"),
        ({"words": "bad, good"}, "2 words for 3 labels; give one for each"),
        ({"words": "bad, good, bad"}, "'bad' and 'bad' are the same tokens"),
        ({"template": "{text} " + "very long " * 40}, "it leaves 0 of the 64 tokens .*; use a shorter template"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(gpt, settings, message):
    with pytest.raises(ModelError, match=message):
        build_classifier(spec_of(gpt, **settings), seed=1)


def test_models_that_do_not_continue_a_text_are_refused(tmp_path):
    def named(name):
        return spec_of(name.replace("hf:", "prompt:"))

    masked = write_bert(tmp_path / "masked", "BertForMaskedLM")
    with pytest.raises(ModelError, match="its answer for a word depends on the next one; use a causal"):
        build_classifier(named(masked), seed=1)
    with pytest.raises(ModelError, match="'t5' has no language model that continues a text"):
        build_classifier(named(write_family(tmp_path / "t5", "t5")), seed=1)
    headless = write_model(tmp_path / "llama", "LlamaModel", tokenizer_of("llama"), **IN_LLAMA)
    with pytest.raises(ModelError, match="its files have no language-model head"):
        build_classifier(named(headless), seed=1)


def test_it_cannot_be_the_student(run_config):
    with pytest.raises(ConfigError, match=r"model = 'prompt:a' makes a prompted model the student, which cannot learn"):
        run_config(model="prompt:a")
    with pytest.raises(ConfigError, match=r"student.model = 'prompt:a' makes a prompted model the student"):
        run_config(**{"student.model": "prompt:a"})


@pytest.mark.parametrize("template", ["no place", "{text} {text_a} {text_b}", "{text_a} only"])
def test_a_template_has_the_places_of_single_texts_or_of_pairs(run_config, template):
    with pytest.raises(ConfigError, match=r"prompt.template = .*: give either {text}, or both"):
        run_config(**{"prompt.template": template})


@pytest.mark.parametrize("mechanism", ["dp-sgd", "pate"])
def test_mechanisms_that_train_teachers_refuse_it(run_config, gpt, mechanism):
    keys = {"privacy.mechanism": mechanism, "weights.scheme": "uniform"}
    with pytest.raises(
        ConfigError, match=f"reads no private example, so privacy.mechanism = '{mechanism}' has nothing"
    ):
        run_config(**keys, **{"teacher.models": f"{gpt},ngram-bag,ngram-bag"})
    model = build_classifier(spec_of(gpt), seed=1)
    with pytest.raises(PrivacyError, match="has nothing to train with noise"):
        mechanism_of(run_config(**keys).privacy).check_model(model, READ)


def test_lora_needs_a_model_that_takes_adapters(run_config):
    with pytest.raises(ConfigError, match="trainable = 'lora' adds adapters to hf: models, and the run has none"):
        check_deployed_run(run_config(trainable="lora"))


def test_its_cost_is_that_of_reading_the_texts(run_config, gpt):
    part = LabelledTexts(READ, np.arange(20) % 3)
    config = run_config(**{"labels.names": "bad,so_so,good", "task": "own"})
    plan = TeacherPlan(config, spec_of(gpt), SplitExamples(part, part, part), part.texts, 1, None)
    cost = estimate_cost(plan, build_classifier(plan.spec, seed=1), READ, key=b"k" * 32)
    assert (cost.steps, cost.shards) == (0, 0)
    assert cost.seconds > 0


def test_train_teacher_returns_it_as_built(gpt):
    part = LabelledTexts(READ, np.arange(20) % 3)
    model = train_teacher(spec_of(gpt), SplitExamples(part, part, part), TeacherConfig(), seed=1)
    built = build_classifier(spec_of(gpt), seed=2)
    np.testing.assert_array_equal(predict_soft_labels(model, READ), predict_soft_labels(built, READ))
