import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.data.reviews import builtin_texts
from knot_fed.errors import ModelError
from knot_fed.models import (
    ModelSpec,
    build_classifier,
    constant_classifier,
    load_classifier,
    load_portable,
    pipeline_probabilities,
    save_classifier,
    train_vocabulary,
    write_portable,
)
from knot_fed.models.huggingface import exported
from knot_fed.models.huggingface.exported.tokenization_knot_fed_ngrams import buckets
from knot_fed.models.huggingface.pretrained import read_config
from knot_fed.models.ngram_hashing import NgramHasher
from knot_fed.training.teacher import predict_soft_labels
from tests.models.tiny_models import write_family

LABELS = ("bad: 'x'", "fair", "good")
REVIEWS = builtin_texts("forum")
TEXTS = [*REVIEWS[:6], "x", " ".join(REVIEWS[:40]), "the [SEP] is </s> [PAD] <pad> <|endoftext|>"]
PAIRS = list(zip(TEXTS, [*TEXTS[3:], *TEXTS[:3]], strict=True))
CODE = sorted(Path(exported.__file__).parent.glob("*_knot_fed_*.py"))
ALONE = """
import json, sys
from transformers import pipeline

def answer(folder, **how):
    classify = pipeline("text-classification", folder, device="cpu", **how)
    place = {name: index for index, name in classify.model.config.id2label.items()}
    texts = json.load(open(folder + ".json"))
    texts = [text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts]
    found = classify(texts, top_k=None, truncation=True, batch_size=3)
    return [[each["score"] for each in sorted(row, key=lambda each: place[each["label"]])] for row in found]

folders = sys.argv[1:]
said = [answer(folder, trust_remote_code=True) for folder in folders]
assert not any(name.startswith("knot_fed") for name in sys.modules)
import knot_fed.hub
print(json.dumps([said, [answer(folder) for folder in folders]]))
"""


def classifier(name, *, trainable="all", paired=False, max_length=20):
    vocabulary = train_vocabulary(REVIEWS[:50]) if name == "tiny-bert" else ()
    model = build_classifier(ModelSpec(name, trainable, LABELS, paired, max_length, vocabulary), seed=3)
    with torch.no_grad():
        for parameter in model.output_layer.parameters() if model.output_layer is not None else ():
            parameter.mul_(5)  # far from equal probabilities
    return model


def differences(model, folder):
    folder.mkdir()
    write_portable(model, folder)
    texts = PAIRS if model.spec.paired else TEXTS
    expected = predict_soft_labels(model, texts)
    assert expected.std(axis=0).max() > 1e-3
    return [np.abs(pipeline_probabilities(folder, texts, batch_size=size) - expected).max() for size in (1, 4)]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(
    "family", ["bert", "roberta", "deberta", "xlnet", "gpt-2 without padding", "llama without padding", "t5", "bart"]
)
def test_an_exported_head_gives_its_probabilities_through_the_pipeline(tmp_path, family, paired):
    write_family(tmp_path / "encoder", family)
    head = classifier(f"hf:{tmp_path / 'encoder'}", trainable="head", paired=paired)
    assert max(differences(head, tmp_path / "out")) < 1e-6


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", ["bert", "gpt-2 padding on the left", "t5", "xlnet"])
def test_an_exported_transformer_gives_its_probabilities_through_the_pipeline(tmp_path, family, paired):
    write_family(tmp_path / "model", family)
    whole = classifier(f"hf:{tmp_path / 'model'}", paired=paired)
    assert max(differences(whole, tmp_path / "out")) < 1e-6


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("name", ["ngram-bag", "tiny-bert"])
def test_a_student_without_a_pretrained_model_gives_its_probabilities_through_the_pipeline(tmp_path, name, paired):
    model = classifier(name, paired=paired)
    if name == "tiny-bert":
        with torch.no_grad():
            model.network.bert.pooler.dense.weight.mul_(20)
    assert max(differences(model, tmp_path / "out")) < 1e-6


@pytest.mark.slow
def test_a_copied_folder_needs_neither_knot_fed_nor_the_encoder(tmp_path):
    write_family(tmp_path / "encoder", "bert")
    expected, folders = [], []
    for name, model in (
        ("pairs", classifier(f"hf:{tmp_path / 'encoder'}", trainable="head", paired=True)),
        ("single", classifier(f"hf:{tmp_path / 'encoder'}", trainable="head")),
        ("ngrams", classifier("ngram-bag")),
    ):
        (tmp_path / "first" / name).mkdir(parents=True)
        write_portable(model, tmp_path / "first" / name)
        texts = PAIRS if model.spec.paired else TEXTS
        expected.append(predict_soft_labels(model, texts))
        folders.append(tmp_path / "moved" / name)
        folders[-1].parent.mkdir(exist_ok=True)
        folders[-1].with_suffix(".json").write_text(json.dumps(texts))
    for folder in folders:
        shutil.move(tmp_path / "first" / folder.name, folder)
    shutil.rmtree(tmp_path / "encoder")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", ALONE, *map(str, folders)]
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert told.returncode == 0, told.stderr
    for answers in json.loads(told.stdout):
        assert max(np.abs(np.array(a) - e).max() for a, e in zip(answers, expected, strict=True)) < 1e-6


def test_texts_beyond_the_length_need_no_truncation_by_the_tokenizer_of_a_head(tmp_path):
    write_family(tmp_path / "encoder", "roberta")
    head = classifier(f"hf:{tmp_path / 'encoder'}", trainable="head", paired=True)
    before = head.tokenizer("a", "b")["input_ids"]
    write_portable(head, tmp_path)
    assert head.tokenizer("a", "b")["input_ids"] == before
    network, tokenizer = load_portable(tmp_path)
    tokens = tokenizer(*PAIRS[7], return_tensors="pt")
    assert tokens["input_ids"].shape[1] > 40
    with torch.no_grad():
        rows = network(**tokens).logits.softmax(dim=1).numpy()
    assert np.abs(rows - predict_soft_labels(head, [PAIRS[7]])).max() < 1e-6


def test_padding_on_the_left_changes_nothing(tmp_path):
    write_family(tmp_path / "encoder", "roberta")
    head = classifier(f"hf:{tmp_path / 'encoder'}", trainable="head", paired=True)
    write_portable(head, tmp_path)
    network, tokenizer = load_portable(tmp_path)
    rows = []
    for side in ("left", "right"):
        batch = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, padding_side=side, return_tensors="pt")
        with torch.no_grad():
            rows.append(network(**batch).logits)
    assert torch.allclose(*rows, atol=1e-5)


@given(st.text(max_size=60))
def test_the_tokenizer_in_the_folder_hashes_as_the_student_does(text):
    assert buckets(text) == NgramHasher().bags([text]).joined().tolist()


@pytest.mark.parametrize("file", CODE, ids=lambda file: file.stem)
def test_code_in_a_folder_imports_only_torch_and_transformers(file):
    tree = ast.parse(file.read_text())
    found = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    assert found <= {"torch", "transformers"} | sys.stdlib_module_names


def test_an_export_tells_no_path(tmp_path):
    write_family(tmp_path / "canary" / "encoder", "bert")
    for trainable in ("head", "all"):
        out = tmp_path / trainable
        out.mkdir()
        write_portable(classifier(f"hf:{tmp_path / 'canary' / 'encoder'}", trainable=trainable), out)
        assert not [file.name for file in out.iterdir() if b"canary" in file.read_bytes()]
        assert len({file.stat().st_mode for file in out.iterdir()}) == 1


def test_a_constant_and_a_model_of_ones_own_are_refused(tmp_path):
    spec = ModelSpec("ngram-bag", "all", LABELS, False, 20)
    with pytest.raises(ModelError, match="has no form in transformers; load it with"):
        write_portable(constant_classifier(spec, 1), tmp_path)


def test_an_exported_head_is_no_start_of_a_run(tmp_path):
    write_portable(classifier("ngram-bag"), tmp_path)
    with pytest.raises(ModelError, match="exported head or n-gram bag, which cannot be trained further; give its enc"):
        read_config(f"hf:{tmp_path}")


def test_an_exported_transformer_is_a_start_of_a_run(tmp_path):
    model = classifier("tiny-bert")
    write_portable(model, tmp_path)
    again = classifier(f"hf:{tmp_path}")
    assert again.starts_ready


def test_a_student_whose_encoder_is_gone_says_what_to_do(tmp_path):
    write_family(tmp_path / "encoder", "bert")
    save_classifier(classifier(f"hf:{tmp_path / 'encoder'}", trainable="head"), tmp_path / "student")
    (tmp_path / "encoder").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=rf"{re.escape(str(tmp_path / 'encoder'))}, and that folder is gone; put it"):
        load_classifier(tmp_path / "student")
    file = tmp_path / "student" / "knot_fed.json"
    file.write_text(file.read_text().replace("/encoder", "/elsewhere"))
    load_classifier(tmp_path / "student")
