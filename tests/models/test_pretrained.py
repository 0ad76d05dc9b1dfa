import json
import os
import pickle
import shutil
import time

import huggingface_hub
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers

from knot_fed.errors import ModelError
from knot_fed.models import (
    ModelSpec,
    build_classifier,
    load_classifier,
    model_identity,
    predict_logits,
    save_classifier,
    try_model,
)
from knot_fed.training.fitting import Schedule, fit_all_epochs
from tests.models.tiny_models import (
    FAMILIES,
    IN_BART,
    IN_ROBERTA,
    READS,
    SIZES,
    TEXTS,
    fast,
    tokenizer_of,
    tokenizer_of_words,
    write_bert,
    write_config,
    write_family,
    write_model,
)

LABELS = ("bad", "so so", "good")
MODES = ("all", "head")
READ = tuple(TEXTS[:20])


def spec_of(name, *, trainable="all", paired=False, max_length=128):
    return ModelSpec(name, trainable, LABELS, paired, max_length)


@pytest.mark.parametrize("trainable", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_tried_trained_and_saved(tmp_path, family, trainable):
    spec = spec_of(write_family(tmp_path / "m", family), trainable=trainable)
    assert try_model(spec, READ).parameters > 0
    model = build_classifier(spec, seed=1)
    items, labels = model.encode(READ), torch.arange(len(READ)) % 3
    schedule = Schedule(epochs=8, patience=8, batch_size=10, learning_rate=3e-3)
    losses = fit_all_epochs(
        model, items, lambda logits, rows: torch.nn.functional.cross_entropy(logits, labels[rows]), schedule, seed=1
    )
    assert min(losses) < losses[0]
    save_classifier(model, tmp_path / "saved")
    loaded = load_classifier(tmp_path / "saved")
    np.testing.assert_allclose(predict_logits(loaded, loaded.encode(READ)), predict_logits(model, items), atol=1e-6)


@pytest.mark.parametrize("trainable", MODES)
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_answered_alike_alone_and_beside_longer_ones(tmp_path, family, trainable, paired):
    model = build_classifier(spec_of(write_family(tmp_path, family), trainable=trainable, paired=paired), seed=1)
    singles = ["good", *READ[:4], "a long text " * 90, "</s> [SEP] <|endoftext|> <s> quoted", "\u2603"]
    texts = list(zip(singles, singles[::-1], strict=True)) if paired else singles
    together = predict_logits(model, model.encode(texts))
    alone = np.concatenate([predict_logits(model, model.encode([text])) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_padding_on_the_left_would_change_the_answers_of_learned_positions(tmp_path):
    """Shows why a folder with that setting is overridden: its tokenizer pads on the right here."""
    model = build_classifier(spec_of(write_family(tmp_path, "gpt-2 padding on the left")), seed=1)
    items = model.encode(READ)
    right = predict_logits(model, items)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).padding_side == "left"
    model.tokenizer.padding_side = "left"
    assert np.abs(predict_logits(model, items) - right).max() > 1e-3 * np.abs(right).max()


@pytest.mark.parametrize(
    ("family", "positions"),
    [("bert", 64), ("roberta", 64), ("gpt-2 without padding", 64), ("llama without padding", 64)],
)
def test_a_text_is_cut_where_the_models_positions_end_and_that_is_told(tmp_path, family, positions):
    name = write_family(tmp_path, family)
    for trainable in MODES:
        spec = spec_of(name, trainable=trainable, max_length=600)
        assert try_model(spec).notes == (f"reads {positions} tokens of an example, fewer than max-length",)
        (read,) = build_classifier(spec, seed=1).readings(["word " * 2000])
        assert len(np.ravel(read)) == positions
    assert try_model(spec_of(name, max_length=positions)).notes == ()


@pytest.mark.parametrize("kept", ["in shards", "in half precision", "by torch", "by sentence-transformers"])
def test_weights_are_read_however_they_are_kept(tmp_path, kept):
    whole, other = write_bert(tmp_path / "whole"), tmp_path / "other"
    shutil.copytree(tmp_path / "whole", other)
    network = transformers.AutoModel.from_pretrained(other)
    (other / "model.safetensors").unlink()
    if kept == "by torch":
        torch.save(network.state_dict(), other / "pytorch_model.bin")
    else:
        network = network.half() if kept == "in half precision" else network
        network.save_pretrained(other, max_shard_size="20KB" if kept == "in shards" else "1GB")
    if kept == "by sentence-transformers":
        (other / "1_Pooling").mkdir()
        (other / "modules.json").write_text("[]")
    for trainable in MODES:
        first, second = (
            build_classifier(spec_of(name, trainable=trainable), seed=1) for name in (whole, f"hf:{other}")
        )
        expected = predict_logits(first, first.encode(READ))
        np.testing.assert_allclose(predict_logits(second, second.encode(READ)), expected, atol=2e-3)


def without(pattern):
    return lambda folder: [file.unlink() for file in folder.glob(pattern)]


def changed(**settings):
    return lambda folder: write_config(folder, **settings)


def replaced(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name):
    """Keep half of a file."""

    def write(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return write


def retokenized(tokenizer):
    return lambda folder: tokenizer().save_pretrained(folder)


def larger():
    tokenizer = tokenizer_of("words")
    tokenizer.add_tokens(["zugzwang"])
    return tokenizer


def unpadded():
    """Return a tokenizer without any special token."""
    made = tokenizers.Tokenizer(models.WordLevel({"the": 0, "house": 1, "is": 2, "good": 3}, unk_token="is"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return fast(made)


def reweighted(change):
    def write(folder):
        network = transformers.AutoModel.from_pretrained(folder)
        with torch.no_grad():
            for parameter in network.parameters():
                change(parameter)
        network.save_pretrained(folder)

    return write


FILES, ADDED = "no weights in that folder .*; copy them there", "add the files that tokenizer.save_pretrained writes"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
REFUSED = {
    "no tokenizer": (without("tokenizer*"), f"its tokenizer (knows no ordinary word, or|cannot be loaded) .*; {ADDED}"),
    "no vocabulary": (without("tokenizer.json"), f"its tokenizer cannot be loaded .*; {ADDED}"),
    "tokenizer cut": (cut("tokenizer.json"), f"its tokenizer cannot be loaded .*; {ADDED}"),
    "tokenizer of no word": (retokenized(tokenizer_of_words), f"knows no ordinary word, .*; {ADDED}"),
    "tokenizer of another script": (retokenized(lambda: tokenizer_of_words("дом")), "no part of the first 20"),
    "tokenizer too large": (retokenized(larger), "tokens up to 400, and the model embeddings for 400; use the model's"),
    "tokenizer without padding": (retokenized(unpadded), "no padding token; set pad_token and save the tokenizer"),
    "no configuration": (without("config.json"), "no config.json in that folder; give hf:"),
    "no weights": (without("model*"), FILES),
    "weights of another library": (lambda folder: (folder / "model.safetensors").rename(folder / "tf_model.h5"), FILES),
    "weights cut": (cut("model.safetensors"), r"weights cannot be loaded \(SafetensorError\); copy the folder anew"),
    "weights not fetched": (replaced("model.safetensors", POINTER), "only a git-lfs pointer; run git lfs pull in"),
    "weights of fewer layers": (changed(num_hidden_layers=2), "16 of the .* are not in its files .*; give the folder"),
    "weights of another width": (changed(intermediate_size=65), "have another shape, such as .*; give the folder"),
    "weights that are no numbers": (reweighted(lambda values: values.fill_(np.nan)), "logits are not finite; save its"),
    "weights of zero": (reweighted(lambda values: values.zero_()), "it answers the same for every text; use another"),
    "configuration cut": (cut("config.json"), r"config.json cannot be loaded .*; copy the folder anew"),
    "configuration of a list": (replaced("config.json", b"[]"), r"config.json cannot be loaded .*; copy the folder"),
    "no type": (changed(model_type=""), "no model_type; use a model that transformers has saved"),
    "unknown type": (changed(model_type="bert9000"), "knows no type 'bert9000'; use another model, or upgrade"),
    "type of images": (changed(model_type="vit"), "it reads pixel_values, not text; use a model of text"),
    "type without a mask": (changed(model_type="fnet"), "no attention mask, so it would read the padding .*; use"),
    "quantised": (changed(quantization_config={"quant_method": "bitsandbytes"}), "quantised, .*; use the model before"),
    "adapter": (replaced("adapter_config.json", b"{}"), "an adapter, which cannot be read; merge it into its base"),
    "code of its own": (changed(model_type="own", auto_map={"AutoModel": "own.M"}), "never run; use a model that"),
}  # fmt: skip


@pytest.mark.parametrize("trainable", MODES)
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_at_once_in_a_sentence_with_the_remedy(tmp_path, case, trainable):
    prepare, sentence = REFUSED[case]
    name, started = write_bert(tmp_path), time.process_time()
    prepare(tmp_path)
    with pytest.raises(ModelError, match=sentence) as error:
        try_model(spec_of(name, trainable=trainable), READ)
    assert str(error.value).startswith(f"model {name!r}: ")
    assert "\n" not in str(error.value)
    assert time.process_time() - started < 10


def test_a_model_that_reads_the_padding_of_a_batch_is_refused(tmp_path):
    name = write_model(tmp_path, "ConvBertModel", tokenizer_of("words"), **SIZES, **READS, embedding_size=32)
    for trainable in MODES:
        with pytest.raises(ModelError, match="differs in a batch and alone; use a model that masks its padding"):
            try_model(spec_of(name, trainable=trainable), READ)


def test_a_tokenizer_that_was_saved_without_a_mask_gives_one(tmp_path):
    name = write_bert(tmp_path, **READS)
    reading = tmp_path / "tokenizer_config.json"
    reading.write_text(json.dumps(json.loads(reading.read_text()) | {"model_input_names": ["input_ids"]}))
    for trainable in MODES:
        assert try_model(spec_of(name, trainable=trainable), READ) is not None


def test_positions_are_counted_whatever_the_configuration_calls_them(tmp_path):
    sizes = {"d_model": 32, "n_heads": 2, "n_layers": 1, "max_seq_len": 64}
    name = write_model(tmp_path / "mpt", "MptModel", tokenizer_of("gpt"), **sizes)
    assert try_model(spec_of(name), READ).notes == ("reads 64 tokens of an example, fewer than max-length",)
    sizes = {"d_model": 32, "attention_window": 8, "max_encoder_position_embeddings": 64, **IN_BART, **IN_ROBERTA}
    name = write_model(tmp_path / "led", "LEDModel", tokenizer_of("roberta"), **sizes, decoder_start_token_id=2)
    (told,) = try_model(spec_of(name, trainable="head"), READ).notes
    assert told == "reads 64 tokens of an example, fewer than max-length"


@pytest.mark.parametrize("activation", ["tanh", None])
def test_logits_that_are_bent_behind_the_output_layer_are_not_divided_in_it(tmp_path, activation):
    sizes = {"emb_dim": 32, "n_layers": 1, "n_heads": 2, "pad_index": 0, "unk_index": 1, **READS}
    name = write_model(tmp_path, "XLMModel", tokenizer_of("words"), **sizes, summary_activation=activation)
    model = build_classifier(spec_of(name), seed=1)
    items = model.encode(READ)
    logits = predict_logits(model, items)
    divided = model.divide_logits(2.0)
    assert divided == (activation is None)
    np.testing.assert_allclose(predict_logits(model, items), logits / 2 if divided else logits, atol=1e-6)


def test_a_model_without_a_classifier_is_refused_whole_and_read_by_a_head(tmp_path):
    name = write_family(tmp_path, "t5")
    transformers.T5EncoderModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="T5ForSequenceClassification are not in its files"):
        try_model(spec_of(name), READ)
    assert try_model(spec_of(name, trainable="head"), READ) is not None
    write_config(tmp_path, model_type="mamba")
    with pytest.raises(ModelError, match="transformers has no classifier of type 'mamba'; use trainable = 'head'"):
        try_model(spec_of(name))


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("write", [torch.save, lambda evil, file: file.write_bytes(pickle.dumps(evil))])
def test_no_pickle_of_a_folder_is_run(tmp_path, write):
    name, place = write_bert(tmp_path / "m"), tmp_path / "ran"
    (tmp_path / "m/model.safetensors").unlink()
    write(Evil(place), tmp_path / "m/pytorch_model.bin")
    for trainable in MODES:
        with pytest.raises(ModelError, match="its weights cannot be loaded"):
            try_model(spec_of(name, trainable=trainable))
    assert not place.exists()


def test_no_code_that_a_folder_holds_or_names_is_run(tmp_path):
    """Custom Python code, or attention code from the hub: transformers' own model of that type is used."""
    name, place = write_bert(tmp_path / "m"), tmp_path / "ran"
    (tmp_path / "m/own.py").write_text(f"import os\nos.mkdir({str(place)!r})\n")
    own = {"AutoConfig": "own.C", "AutoModel": "own.M", "AutoModelForSequenceClassification": "own.M"}
    write_config(tmp_path / "m", auto_map=own, attn_implementation="somebody/kernel")
    reading = tmp_path / "m/tokenizer_config.json"
    reading.write_text(json.dumps(json.loads(reading.read_text()) | {"auto_map": {"AutoTokenizer": ["own.T"] * 2}}))
    for trainable in MODES:
        spec = spec_of(name, trainable=trainable)
        assert try_model(spec, READ) is not None
        assert "somebody" not in str(getattr(build_classifier(spec, seed=1), "network", ""))
    assert not place.exists()


def test_a_hub_id_is_tried_where_the_cache_has_all_of_it_and_told_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)
    spec = spec_of("hf:somebody/bert", max_length=100)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert try_model(spec, READ) is None
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"config.json cannot be fetched from the hub; check the hub id and the net"):
        try_model(spec, READ)
    kept = tmp_path / "models--somebody--bert"
    write_bert(kept / "snapshots/abc")
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text("abc")
    assert try_model(spec, READ).notes == ("reads 64 tokens of an example, fewer than max-length",)
    write_config(kept / "snapshots/abc", model_type="bert9000")
    with pytest.raises(ModelError, match=r"model 'hf:somebody/bert': transformers .* knows no type"):
        try_model(spec, READ[:3])


def test_another_vocabulary_is_another_model(tmp_path):
    """Cached features and teachers are therefore recomputed."""
    spec = spec_of(write_bert(tmp_path))
    told = [model_identity(spec)]
    for name in ("vocab.txt", "spiece.model", "merges.txt"):
        (tmp_path / name).write_text("words")
        told.append(model_identity(spec))
    (tmp_path / "picture.png").write_bytes(b"")
    assert len({str(identity) for identity in told}) == 4
    assert model_identity(spec) == told[-1]


def test_a_peer_is_told_the_name_of_a_model_and_not_what_its_folder_holds(tmp_path):
    with pytest.raises(ModelError) as error:
        try_model(spec_of(f"hf:{tmp_path}"))
    assert error.value.refusal == (
        f"model 'hf:{tmp_path}' cannot be used here; its owner finds why in the client's own log"
    )
