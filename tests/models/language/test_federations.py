"""Decoders as teachers in whole federations in this process: adapters, whole models, and prompts."""

from dataclasses import replace

import numpy as np
import pytest
import transformers

from knot_fed import Federation, load_student
from knot_fed.config import LoraConfig
from knot_fed.errors import ModelError
from knot_fed.federation.client.personal import UNTRAINED
from knot_fed.federation.wire import envelope, student_wire
from knot_fed.models import build_classifier, predict_logits, read_spec, trained_state, write_portable
from knot_fed.preflight.models import check_models
from knot_fed.publishing.export import export_student
from knot_fed.runs.run_folder import RunFolder
from tests.federation.client.owners import SPEC, Owner, request, rows
from tests.models.language.test_lora import spec_of, trained
from tests.models.test_pretrained import unpadded
from tests.models.tiny_models import TEXTS, write_bert, write_causal, write_family

QUICK = {"teacher.epochs": 1, "distill.epochs": 1, "student.pretrain": False, "keep-answers": True}


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    """A tiny Llama and GPT-2 to be trained, and a tiny Qwen2 that is prompted."""
    folder = tmp_path_factory.mktemp("decoders")
    trained = [write_family(folder / name, f"{name} without padding") for name in ("llama", "gpt-2")]
    return ",".join([*trained, write_causal(folder / "qwen", "qwen without padding")])


@pytest.mark.parametrize("trainable", ["lora", "all"])
def test_decoders_teach_a_student_of_another_kind(small, decoders, trainable):
    config = small({**QUICK, "teacher.models": decoders, "student.model": "ngram-bag", "trainable": trainable})
    result = Federation(config).run(echo=lambda _: None)
    answers = result.answers
    assert sorted(answers) == ["hotels", "phones", "restaurants"]
    for answered in answers.values():
        assert np.ptp(answered, axis=0).max() > 1e-4
        np.testing.assert_allclose(answered.sum(axis=1), 1, atol=1e-4)
    kept = sorted((result.folder.parent.parent / "state").glob("*/teachers/*/*.safetensors"))
    assert len(kept) == 2  # the prompted teacher is not kept
    assert {file.name for file in kept} == {"parameters.safetensors" if trainable == "lora" else "model.safetensors"}


def test_a_student_with_adapters_is_sent_without_its_base_and_saved_with_it(small, tmp_path):
    name = write_bert(tmp_path / "bert", "BertForMaskedLM")
    config = small({**QUICK, "model": "ngram-bag", "teacher.models": "ngram-bag,ngram-bag,tiny-bert"} |
                   {"student.model": name, "student.pretrain": True, "trainable": "lora"})  # fmt: skip
    result = Federation(config).run(echo=lambda _: None)
    student = result.folder / "student"
    network = transformers.AutoModelForSequenceClassification.from_pretrained(student)
    assert not any("lora" in key for key in network.state_dict())
    assert read_spec(student).trainable == "lora"
    loaded = load_student(result.folder)
    assert np.isfinite(predict_logits(loaded, loaded.encode(TEXTS[:5]))).all()
    assert set(result.summary["domains"]) >= {"hotels", "phones", "restaurants"}
    exported = export_student(RunFolder.open(result.folder), tmp_path / "exported", onnx=True)
    assert exported.code == []


def test_a_prompted_teachers_noisy_rows_have_the_mechanisms_guarantee(small, decoders):
    """It reads no private example, so its answers without noise leak nothing, and noise only adds to that."""
    prompted = decoders.rpartition(",")[2]
    keys = {**QUICK, "teacher.models": f"ngram-bag,ngram-bag,{prompted}", "student.model": "ngram-bag"}
    config = small({**keys, "privacy.mechanism": "gaussian", "weights.scheme": "uniform", "privacy.epsilon": 8.0})
    result = Federation(config).run(echo=lambda _: None)
    stated = result.summary["privacy"]
    assert stated["mechanism"] == "gaussian"
    assert stated["epsilon"] <= 8.0 + 1e-6


def test_a_prompted_teacher_has_no_personal_model_and_says_why(small, decoders, caplog):
    caplog.set_level("INFO", "knot_fed")
    prompted = decoders.rpartition(",")[2]
    keys = {**QUICK, "teacher.models": f"ngram-bag,ngram-bag,{prompted}", "student.model": "ngram-bag"}
    result = Federation(small({**keys, "personal.consensus": "pooled", "teacher.start": "both"})).run(
        echo=lambda _: None
    )
    clients = result.summary["personal"]["clients"]
    assert sorted(clients.values(), key=len)[0] == {"reason": UNTRAINED}
    assert sorted(map(sorted, clients.values())) == [["after", "before"], ["after", "before"], ["reason"]]
    assert "another architecture" not in caplog.text


def test_a_decoder_without_any_token_for_padding_is_refused_before_the_start(small, tmp_path):
    name = write_family(tmp_path / "gpt", "gpt-2 without padding")
    unpadded().save_pretrained(tmp_path / "gpt")
    for trainable in ("all", "head", "lora"):
        config = small({**QUICK, "model": name, "trainable": trainable})
        with pytest.raises(
            ModelError, match="its tokenizer has no padding token; set pad_token and save the tokenizer"
        ):
            check_models(config, TEXTS[:3])


def test_the_preflight_tells_that_a_prompted_teacher_is_not_trained(small, decoders):
    prompted = decoders.rpartition(",")[2]
    config = small({"teacher.models": f"ngram-bag,ngram-bag,{prompted}"})
    (note,) = [note for note in check_models(config, TEXTS[:3]) if "not trained" in note]
    assert note.endswith("it answers as its language model does, whatever teacher.epochs says")


def test_a_missing_package_is_told_by_the_preflight_also_for_a_model_that_is_not_here_yet(small, monkeypatch):
    monkeypatch.setattr("knot_fed.models.huggingface.lora.find_spec", lambda name: None if name == "peft" else True)
    config = small({"model": "hf:org/not-here", "trainable": "lora"})
    with pytest.raises(ModelError, match=r"pip install 'knot-fed\[lora\]'"):
        check_models(config, TEXTS[:3])


def test_write_portable_merges_the_adapters_of_a_kept_teacher(tmp_path):
    model = build_classifier(spec_of(write_bert(tmp_path / "m")), seed=1)
    trained(model, epochs=2)
    (tmp_path / "out").mkdir()
    assert write_portable(model, tmp_path / "out") == []
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


def test_a_node_builds_a_prompted_teacher_or_adapters_only_on_models_that_its_owner_named(tmp_path):
    name = write_bert(tmp_path / "bert", "BertForMaskedLM")
    spec = replace(SPEC, name=name, trainable="lora", lora=LoraConfig())
    arrays = envelope.pack_arrays(trained_state(build_classifier(spec, seed=0)))
    content = student_wire.pack_student(spec.to_json(), arrays)
    careful = Owner(tmp_path / "careful")
    assert "named by the server only" in careful.refusal("evaluate", content)
    keys = {"teacher.models": "", "model": "prompt:evil/model", "student.model": "ngram-bag"}
    assert "named by the server only" in careful.run(keys=keys).refusal("train", request())
    open_to_it = Owner(tmp_path / "open", policy=f'models = ["{name}"]')
    assert student_wire.METRICS in open_to_it.ask("evaluate", content)


def test_a_nodes_own_prompted_teacher_answers_alike_whatever_its_private_examples_are(tmp_path, decoders):
    prompted, answers = decoders.rpartition(",")[2], []
    for place, examples in enumerate((rows(100), rows(40)[::5])):
        owner = Owner(tmp_path / str(place), examples=examples, model=prompted)
        answers.append(owner.soft_labels().answer.soft_labels)
    np.testing.assert_array_equal(*answers)
    owner.run(keys={"privacy.mechanism": "dp-sgd"})
    assert "has nothing to train with noise" in owner.refusal("train", request())
