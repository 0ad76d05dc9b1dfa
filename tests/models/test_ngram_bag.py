"""The n-gram bag's items in arrays: what scikit-learn's vectorizers give text by text, whatever is read at once."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer

from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, build_classifier, ngram_hashing, predict_logits
from knot_fed.models.items import RaggedItems, longest_first, take
from knot_fed.models.ngram_hashing import BUCKETS, NgramHasher

HALF = {"n_features": BUCKETS // 2, "alternate_sign": False, "norm": None, "binary": True, "dtype": np.float32}
WORDS = HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]", **HALF)
CHARACTERS = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **HALF)
ODD = "aAbß\u03a3\u03c3\u03c2İ\u0131é\u0301字😀_.,!'- \t\n\x1c\x85\u2028\xa0"
TEXTS = st.lists(
    st.one_of(st.text(alphabet=ODD, max_size=30), st.text(st.characters(codec="utf-8"), max_size=30)), max_size=8
)


def model(*, paired=False):
    return build_classifier(ModelSpec("ngram-bag", "all", LabelSpace.preset("nli").names, paired, 32), seed=1).eval()


def bag_of(text):
    """Return the buckets of one text, as scikit-learn hashes it."""
    words, characters = WORDS.transform([text]), CHARACTERS.transform([text])
    return [*words.indices.tolist(), *(characters.indices + BUCKETS // 2).tolist()]


@settings(deadline=None)
@given(TEXTS, st.integers(1, 5), st.integers(1, 40), st.integers(1, 20))
@example(["\u0391\u03a3 \u03b1\u03c2", "", " ", "a", "a a a a", "It's 5 o'clock, İstanbul!"], 2, 10, 1)
def test_buckets_are_those_of_scikit_learn_however_many_texts_are_read_at_once(texts, at_once, letters, words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_hashing, "TEXTS_AT_ONCE", at_once)
        patch.setattr(ngram_hashing, "LETTERS_AT_ONCE", letters)
        patch.setattr(ngram_hashing, "MOST_WORDS", words)
        bags = NgramHasher().bags(texts)
    assert [bags.row(place).tolist() for place in range(len(bags))] == [bag_of(text) for text in texts]


@pytest.mark.parametrize("paired", [False, True])
def test_a_batch_of_chosen_items_is_that_of_a_list_of_items(paired):
    built, texts = model(paired=paired), ["a good book", "", "bad", "it is so so, is it not?", "!"]
    read = [(text, text[::-1]) for text in texts] if paired else texts
    items, rows = built.encode(read), np.array([3, 1, 1, 0, 4])
    listed = [tuple(side.astype(np.int64) for side in items[int(row)]) for row in rows]
    chosen, expected = built.collate(take(items, rows)), built.collate(listed)
    assert chosen.keys() == expected.keys()
    assert all(torch.equal(chosen[name], expected[name]) for name in expected)
    assert all(chosen[name].dtype == expected[name].dtype for name in expected)
    np.testing.assert_array_equal(
        predict_logits(built, take(items, rows), batch_size=2), predict_logits(built, listed, batch_size=2)
    )
    assert longest_first(items, built.item_length).tolist() == sorted(
        range(len(items)), key=lambda row: -built.item_length(items[row])
    )


def test_chosen_items_share_the_numbers_of_all():
    items = model().encode(["one two", "three", "four five six"])
    assert isinstance(items, RaggedItems)
    for some in (take(items, [2, 0]), items[1:], take(items[1:], [1])):
        assert all(np.shares_memory(items.sides[0].values, bag) for (bag,) in some)
    assert [bag.tolist() for (bag,) in take(items[1:], [1])] == [bag_of("four five six")]
    assert take(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]


@pytest.mark.parametrize("paired", [False, True])
def test_no_text_and_texts_without_ngrams_are_read(paired):
    built = model(paired=paired)
    assert len(built.encode([])) == 0
    assert predict_logits(built, built.encode([])).shape == (0, 3)
    empty = built.encode([("", " ")] * 2 if paired else ["", "\n"])
    assert [sum(map(len, item)) for item in empty] == [0, 0]
    np.testing.assert_allclose(predict_logits(built, empty), [built.head.bias.detach().numpy()] * 2, atol=1e-6)


def test_a_reading_is_what_the_texts_items_hold():
    assert list(model().readings(["So good", "so  GOOD"])) == [[bag_of("so good")]] * 2
