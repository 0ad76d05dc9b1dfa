import shutil

import numpy as np
import pytest
import torch
import transformers

from knot_fed.errors import ModelError
from knot_fed.models import ModelSpec, build_classifier, load_classifier, predict_logits, save_classifier, try_model
from knot_fed.models.huggingface.label_order import label_order
from tests.models.tiny_models import FAMILIES, TEXTS, tokenizer_of, write_config, write_model, write_trained

LABELS = ("very negative", "negative", "neutral", "positive", "very positive")
READ = tuple(TEXTS[:12])
KINDS = {
    "BertForSequenceClassification": "bert",
    "DistilBertForSequenceClassification": "distilbert",
    "RobertaForSequenceClassification": "roberta",
    "GPT2ForSequenceClassification": "gpt-2 padding on the left",
    "T5ForSequenceClassification": "t5",
    "BartForSequenceClassification": "bart",
    "XLNetForSequenceClassification": "xlnet",
}


def spec_of(folder, *, trainable="all", labels=LABELS):
    return ModelSpec(f"hf:{folder}", trainable, labels, paired=False, max_length=32)


def named(labels):
    names = dict(enumerate(labels))
    return {"num_labels": len(names), "id2label": names, "label2id": {name: place for place, name in names.items()}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_head_answers_by_the_names_that_its_own_configuration_gives(tmp_path, kind):
    """The reference is transformers' model, with its outputs reordered by hand."""
    order = [3, 0, 4, 1, 2]
    _, tokenizer, reading, settings = FAMILIES[KINDS[kind]]
    theirs = [LABELS[place].upper().replace(" ", "_") for place in order]
    write_model(tmp_path, kind, tokenizer_of(tokenizer, **reading), **settings, **named(theirs))
    model = build_classifier(spec_of(tmp_path), seed=1)
    items = model.encode(READ)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = np.stack([network(**model.collate([item])).logits[0].numpy() for item in items])
    np.testing.assert_allclose(predict_logits(model, items), logits[:, np.argsort(order)], atol=1e-6)
    assert [*model.network.config.id2label.values()] == list(LABELS)
    save_classifier(model, tmp_path / "saved")
    loaded = load_classifier(tmp_path / "saved")
    np.testing.assert_allclose(predict_logits(loaded, items), predict_logits(model, items), atol=1e-6)


@pytest.mark.parametrize(
    ("theirs", "ours", "places"),
    [
        (["b", "a"], ["a", "b"], [1, 0]),
        (["B", "A"], ["a", "b"], [1, 0]),
        (["a", "A"], ["A", "a"], [1, 0]),
        (["not-entailment", "entailment"], ["entailment", "not_entailment"], [1, 0]),
        (["a", "b"], ["a", "c"], None),
        (["a", "a"], ["a", "a"], None),
        (["a", "A"], ["a", "b"], None),
        (["a", "b", "c"], ["a", "b"], None),
    ],
)
def test_labels_are_matched_by_name_where_that_is_certain(theirs, ours, places):
    assert label_order(theirs, ours) == places


REFUSED = {
    "no names": ([f"LABEL_{place}" for place in range(5)], {}, "has no label names .*; write the run's names into"),
    "other names": ([f"{place} stars" for place in range(1, 6)], {}, "gives the labels 1 stars, .*; write the run's"),
    "a name twice": (["negative"] * 5, {}, "gives the labels negative, .*; write the run's"),
    "a regression": (LABELS, {"problem_type": "regression"}, "one of a regression; save it by AutoModel"),
    "two orders": (
        LABELS, {"label2id": {name: 4 - place for place, name in enumerate(LABELS)}}, "contradict each other; correct",
    ),
    "places that are words": (LABELS, {"label2id": dict.fromkeys(LABELS, "one")}, "contradict each other; correct"),
    "labels from 1": (
        LABELS, {"id2label": dict(enumerate(LABELS, start=1))}, "numbers its labels 1, 2, 3, 4, 5; number them from 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_trained_head_of_other_labels_is_refused_whole_and_its_encoder_read_by_a_new_head(tmp_path, case):
    names, changes, sentence = REFUSED[case]
    write_trained(tmp_path, names)
    write_config(tmp_path, **changes)
    with pytest.raises(ModelError, match=sentence) as error:
        try_model(spec_of(tmp_path), READ)
    assert "\n" not in str(error.value)
    assert try_model(spec_of(tmp_path, trainable="head"), READ).notes == ()


def test_the_remedies_that_a_refusal_names_help(tmp_path):
    write_trained(tmp_path / "m", [f"LABEL_{place}" for place in range(5)])
    shutil.copytree(tmp_path / "m", tmp_path / "encoder")
    transformers.AutoModel.from_pretrained(tmp_path / "m").save_pretrained(tmp_path / "encoder")
    assert try_model(spec_of(tmp_path / "encoder"), READ).notes == ()
    write_config(tmp_path / "m", **{key: value for key, value in named(LABELS).items() if key != "num_labels"})
    assert try_model(spec_of(tmp_path / "m"), READ).notes == ()


@pytest.mark.parametrize("said", [None, {}, {name: str(place) for place, name in enumerate(LABELS)}])
def test_id2label_alone_tells_the_order_where_label2id_says_nothing_else(tmp_path, said):
    write_trained(tmp_path, LABELS)
    write_config(tmp_path, label2id=said)
    assert try_model(spec_of(tmp_path), READ).notes == ()


@pytest.mark.parametrize("labels", [("a",), ("a", "b", "c")])
def test_a_head_of_another_number_of_labels_is_replaced_and_that_is_told(tmp_path, labels):
    write_trained(tmp_path, labels)
    (told,) = try_model(spec_of(tmp_path), READ).notes
    assert told == f"its head of {len(labels)} label(s) is replaced by a fresh one of 5"
