import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from knot_fed.config import SCHEMES
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, build_classifier, predict_logits
from knot_fed.models.ngram_bag import NgramBag
from knot_fed.training.confidence import (
    RANDOM_SEQUENCES,
    domain_scores,
    expected_reliability,
    label_precision,
    prediction_bias,
    prediction_confidence,
    selected_texts,
    teacher_scores,
    text_density,
    training_fit,
)
from knot_fed.training.teacher import predict_soft_labels
from knot_fed.types import LabelledTexts, SplitExamples

TEXTS = ["the room was clean", "a fine phone", "nothing works"]
PRIVATE = LabelledTexts(("a clean room", "fine"), np.array([0, 2]))
EXAMPLES = SplitExamples(
    PRIVATE, LabelledTexts(("clean", "room", "a fine day", "bond"), np.array([0, 1, 2, 2])), PRIVATE
)
vocabulary = st.sampled_from(["room", "clean", "phone", "fine", "battery", "dead", "bond", "yield"])
words = st.lists(vocabulary, min_size=1, max_size=6)
texts = st.lists(words.map(" ".join), min_size=1, max_size=15)


@pytest.fixture(scope="module")
def teacher():
    return build_classifier(ModelSpec("ngram-bag", "all", LabelSpace.preset("nli").names, False, 32, ()), seed=0)


def scores(teacher, scheme):
    soft_labels = predict_soft_labels(teacher, TEXTS)
    return teacher_scores(scheme, [teacher], soft_labels, texts=TEXTS, transfer=TEXTS, examples=EXAMPLES, seed=1)


@pytest.mark.parametrize("scheme", [name for name, facts in SCHEMES.items() if facts.reads in ("nothing", "examples")])
def test_a_scheme_that_reads_no_score_is_sent_none(teacher, scheme):
    assert not scores(teacher, scheme).any()


def test_each_scheme_is_sent_its_own_score(teacher):
    soft_labels = predict_soft_labels(teacher, TEXTS)
    bias = prediction_bias([teacher], seed=1)
    np.testing.assert_array_equal(scores(teacher, "confidence"), prediction_confidence(soft_labels, bias))
    np.testing.assert_array_equal(scores(teacher, "my.own:scheme"), scores(teacher, "confidence"))
    np.testing.assert_array_equal(scores(teacher, "density"), text_density(TEXTS, ["a clean room", "fine"]))
    np.testing.assert_array_equal(scores(teacher, "selective"), selected_texts(TEXTS, EXAMPLES))
    np.testing.assert_allclose(scores(teacher, "adafd"), training_fit([teacher], PRIVATE))
    precision = label_precision([teacher], EXAMPLES.val)
    np.testing.assert_allclose(scores(teacher, "reliability"), soft_labels @ precision, rtol=1e-6)
    assert (scores(teacher, "histogram-confidence") != scores(teacher, "confidence")).any()


def test_a_teacher_that_answers_by_its_bias_has_no_confidence_at_any_temperature(teacher):
    for temperature in (0.5, 2.0):
        bias = prediction_bias([teacher], seed=1, temperature=temperature)
        rows = np.repeat(bias[None], len(TEXTS), axis=0).astype(np.float32)
        found = teacher_scores(
            "confidence", [teacher], rows, texts=TEXTS, transfer=TEXTS, examples=EXAMPLES, seed=1,
            temperature=temperature,
        )  # fmt: skip
        np.testing.assert_allclose(found, 0, atol=1e-6)
        assert prediction_confidence(rows, prediction_bias([teacher], seed=1)).min() > 1e-3


@pytest.mark.parametrize("scheme", ["adafd", "reliability"])
def test_a_client_of_one_label_reports_no_fit_and_no_reliability(teacher, scheme):
    one = SplitExamples(*(LabelledTexts(("so", "fine"), np.array([1, 1])),) * 3)
    soft_labels = predict_soft_labels(teacher, TEXTS)
    assert not teacher_scores(scheme, [teacher], soft_labels, texts=TEXTS, transfer=TEXTS, examples=one, seed=1).any()
    assert scores(teacher, scheme).all()


def test_the_histogram_counts_every_random_sequence_and_one_more_for_each_label(teacher):
    items = teacher.random_items(np.random.default_rng(1), RANDOM_SEQUENCES)
    says = softmax(predict_logits(teacher, items), axis=1).argmax(axis=1)
    expected = [(np.sum(says == label) + 1) / (RANDOM_SEQUENCES + 3) for label in range(3)]
    bias = prediction_bias([teacher], seed=1, histogram=True)
    np.testing.assert_allclose(bias, expected)


@given(texts, texts)
@settings(max_examples=30)
def test_density_is_a_mean_of_cosines_that_ignores_the_order_of_private_texts(public, private):
    density = text_density(public, private)
    assert ((density >= 0) & (density <= 1)).all()
    np.testing.assert_allclose(text_density(public, private[::-1]), density, atol=1e-6)


def test_a_private_text_is_as_dense_as_can_be_and_an_unlike_one_not_at_all():
    density = text_density(["clean rooms", "bond yields"], ["clean rooms"] * 20)
    np.testing.assert_allclose(density, [1.0, 0.0], atol=1e-6)


def test_only_the_ten_nearest_private_texts_count():
    near, far = ["clean rooms"] * 10, ["quarterly bond yields"] * 90
    np.testing.assert_allclose(text_density(["clean rooms"], near + far), [1.0], atol=1e-6)
    assert text_density(["clean rooms"], near[:5] + far)[0] == pytest.approx(0.5)


def test_pairs_are_read_whole():
    density = text_density([("a clean room", "the hall"), ("bond", "yields")], [("the hall", "a clean room")] * 10)
    np.testing.assert_allclose(density, [1.0, 0.0], atol=1e-6)


def texts_of(*texts):
    return LabelledTexts(texts, np.zeros(len(texts), dtype=np.int64))


def test_texts_are_selected_from_the_first_quartile_of_the_validation_split_on():
    train = texts_of("clean rooms", "clean halls", "fine rooms")
    val = texts_of("clean rooms", "rooms", "clean halls", "bond yields")
    public = ["clean rooms", "quarterly reports", "halls", "bond"]
    threshold = np.percentile(text_density(val.texts, train.texts), 25)
    expected = [float(density >= threshold) for density in text_density(public, train.texts)]
    assert selected_texts(public, SplitExamples(train, val, val)).tolist() == expected
    assert expected[0] == 1.0
    assert expected[1] == 0.0
    assert selected_texts(public, SplitExamples(train, texts_of(), val)).tolist() == [1.0] * 4


def test_the_training_fit_is_the_geometric_mean_of_the_true_labels_probabilities(teacher):
    told = predict_soft_labels(teacher, PRIVATE.texts)[np.arange(2), PRIVATE.labels]
    assert training_fit([teacher], PRIVATE) == pytest.approx(np.sqrt(told[0] * told[1]), rel=1e-5)


def test_the_precision_of_a_label_counts_right_predictions_among_all_of_it(teacher):
    texts = [f"word {number}" for number in range(40)]
    predicted = predict_soft_labels(teacher, texts).argmax(axis=1)
    labels = np.where(np.arange(40) % 4 == 0, (predicted + 1) % 3, predicted)
    expected = []
    for label in range(3):
        answers = [truth == label for truth, told in zip(labels, predicted, strict=True) if told == label]
        expected.append((sum(answers) + 1) / (len(answers) + 3))
    np.testing.assert_allclose(label_precision([teacher], LabelledTexts(tuple(texts), labels)), expected)
    np.testing.assert_allclose(label_precision([teacher], texts_of()), 1 / 3)
    assert expected_reliability(np.array([[0.0, 1.0, 0.0]]), np.array(expected))[0] == pytest.approx(expected[1])


class Blobs(NgramBag):
    """A model whose frozen features are those that a test gives by text."""

    def __init__(self, rows):
        super().__init__(ModelSpec("ngram-bag", "all", ("bad", "good"), False, 32, ()))
        self._rows = rows

    @property
    def frozen_features(self):
        return lambda texts: np.stack([self._rows[text] for text in texts])


def test_domain_scores_rank_texts_by_the_ratio_of_the_densities():
    """Of two Gaussians of one covariance the log ratio is linear, here in the first feature."""
    generator = np.random.default_rng(0)
    own = {f"own {row}": generator.normal((1, 0), 1, 2) for row in range(400)}
    found = {f"found {row}": generator.normal((0, 0), 1, 2) for row in range(400)}
    scores = domain_scores([*found], [*own], [Blobs(own | found)], transfer=[*found])
    assert ((np.exp(-8) <= scores) & (scores <= 1)).all()
    along = np.array([row[0] for row in found.values()])
    assert np.corrcoef(np.log(scores), along)[0, 1] > 0.95
    assert abs(np.log(scores).mean() + 4) < 0.1
    assert abs(np.log(scores).std() - 1) < 0.1


@given(st.integers(1, 40))
def test_domain_scores_do_not_depend_on_how_many_private_texts_there_are(repeats):
    once = domain_scores(TEXTS, ["a clean room", "fine"], [], transfer=TEXTS)
    again = domain_scores(TEXTS, ["a clean room", "fine"] * repeats, [], transfer=TEXTS)
    assert (np.argsort(once, kind="stable") == np.argsort(again, kind="stable")).all()


def test_texts_that_are_all_alike_are_of_no_domain():
    np.testing.assert_allclose(domain_scores(["a", "a"], ["a b", "c"], [], transfer=["a", "a"]), np.exp(-4), rtol=1e-6)


@given(st.sets(st.integers(0, 2), min_size=1))
def test_a_text_has_one_domain_score_whichever_others_are_asked_with_it(asked):
    """Rounds ask for slices, and baselines for the texts of one domain at a time."""
    private, rows = ["a clean room", "fine"], sorted(asked)
    found = {text: np.array([len(text), text.count("o")], float) for text in [*TEXTS, *private]}
    for models in ([], [Blobs(found)]):
        whole = domain_scores(TEXTS, private, models, transfer=TEXTS)
        part = domain_scores([TEXTS[row] for row in rows], private, models, transfer=TEXTS)
        np.testing.assert_allclose(part, whole[rows], rtol=1e-6)


@pytest.mark.parametrize("scheme", ["adafd", "reliability"])
def test_a_teacher_without_training_is_weighed_whatever_labels_its_owner_has(scheme):
    class Untrained(NgramBag):
        trains = False

    model = Untrained(ModelSpec("ngram-bag", "all", LabelSpace.preset("nli").names, False, 32, ()))
    one = SplitExamples(*[LabelledTexts(PRIVATE.texts, np.array([1, 1]))] * 3)
    rows = predict_soft_labels(model, TEXTS)
    assert teacher_scores(scheme, [model], rows, texts=TEXTS, transfer=TEXTS, examples=one, seed=1).all()
