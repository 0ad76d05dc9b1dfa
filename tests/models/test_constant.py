"""An owner with a single label takes part: its teacher predicts that label and does not reveal the example count."""

import numpy as np
import pytest

from knot_fed.config import TeacherConfig
from knot_fed.errors import ModelError
from knot_fed.models import ModelSpec, check_model_name
from knot_fed.training.confidence import prediction_bias, prediction_confidence
from knot_fed.training.kept_teachers import load_or_train_teacher
from knot_fed.training.teacher import predict_soft_labels, train_teacher
from knot_fed.types import LabelledTexts, SplitExamples

SPEC = ModelSpec("ngram-bag", "all", ("bad", "so-so", "good", "great"), paired=False, max_length=32)


def owner(count, label=2):
    def part(name):
        return LabelledTexts(tuple(f"{name} {row}" for row in range(count)), np.full(count, label))

    return SplitExamples(part("train"), part("val"), part("test"))


@pytest.mark.parametrize("count", [1, 30])
def test_a_teacher_of_one_label_is_a_constant_whatever_the_text_and_the_number_of_examples(count):
    teacher = train_teacher(SPEC, owner(count), TeacherConfig(), seed=1)
    told = predict_soft_labels(teacher, ["a fine day", "", "bad"])
    np.testing.assert_allclose(told, np.tile([0.025, 0.025, 0.925, 0.025], (3, 1)), atol=1e-6)


def test_a_constant_has_no_confidence_so_that_it_weighs_nothing_by_default():
    teacher = train_teacher(SPEC, owner(9), TeacherConfig(), seed=1)
    bias = prediction_bias([teacher], seed=1)
    confidence = prediction_confidence(predict_soft_labels(teacher, ["a fine day"]), bias)
    assert confidence.tolist() == [0.0]


def test_a_constant_is_kept_and_loaded_like_any_teacher(tmp_path):
    made = [
        load_or_train_teacher(SPEC, owner(9), TeacherConfig(), seed=1, folder=tmp_path / "teachers") for _ in range(2)
    ]
    assert [reused for _, reused in made] == [False, True]
    first, second = (predict_soft_labels(teacher, ["a fine day"]) for teacher, _ in made)
    assert np.array_equal(first, second)


def test_no_configuration_asks_for_a_constant():
    with pytest.raises(ModelError, match="no model 'constant'"):
        check_model_name("constant")
