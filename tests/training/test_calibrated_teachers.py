"""`teacher.calibrate`: the temperature of the own validation split is part of a teacher, and of no message."""

import numpy as np
import pytest

from knot_fed.config import TeacherConfig
from knot_fed.errors import ConfigError
from knot_fed.models import ModelSpec
from knot_fed.training.calibration import LEAST_VALIDATION, fit_temperature, negative_log_likelihood, temper
from knot_fed.training.confidence import prediction_bias, prediction_confidence
from knot_fed.training.kept_teachers import load_or_train_teacher, teacher_digest
from knot_fed.training.teacher import calibrate, predict_soft_labels, train_teacher
from knot_fed.types import LabelledTexts, SplitExamples

SPEC = ModelSpec("ngram-bag", "all", ("bad", "so-so", "good"), paired=False, max_length=32)
PLAIN = TeacherConfig(epochs=8, class_weights="none")
CALIBRATED = PLAIN.model_copy(update={"calibrate": True})


def part(name, count, wrong):
    """Texts whose word tells the label, except for the first ones."""
    words, truth = ("dreadful", "middling", "lovely"), np.arange(count) % 3
    labels = np.where(np.arange(count) < wrong, (truth + 1) % 3, truth)
    return LabelledTexts(tuple(f"{name} {row} {words[label]}" for row, label in enumerate(truth)), labels)


EXAMPLES = SplitExamples(part("train", 60, 0), part("val", 30, 9), part("test", 30, 9))


def test_the_temperature_of_the_validation_split_divides_the_logits():
    plain, calibrated = (train_teacher(SPEC, EXAMPLES, settings, seed=1) for settings in (PLAIN, CALIBRATED))
    before = predict_soft_labels(plain, EXAMPLES.val.texts)
    temperature = fit_temperature(before, EXAMPLES.val.labels)
    assert abs(np.log(temperature)) > 0.1
    after = predict_soft_labels(calibrated, EXAMPLES.val.texts)
    np.testing.assert_allclose(after, temper(before, temperature), atol=1e-5)
    assert negative_log_likelihood(after, EXAMPLES.val.labels) < negative_log_likelihood(before, EXAMPLES.val.labels)


def test_a_kept_teacher_is_loaded_calibrated_and_not_taken_for_the_plain_one(tmp_path):
    def rows(settings):
        teacher, loaded = load_or_train_teacher(SPEC, EXAMPLES, settings, seed=1, folder=tmp_path)
        return predict_soft_labels(teacher, EXAMPLES.test.texts), loaded

    (plain, _), (fresh, first), (kept, second) = rows(PLAIN), rows(CALIBRATED), rows(CALIBRATED)
    assert (first, second) == (False, True)
    np.testing.assert_array_equal(kept, fresh)
    assert np.abs(plain - fresh).max() > 0.01


def test_a_constant_teacher_and_an_empty_validation_split_are_left_as_they_are():
    one_label = SplitExamples(*(LabelledTexts(("a", "b"), np.array([2, 2])) for _ in range(3)))
    constant = train_teacher(SPEC, one_label, CALIBRATED, seed=1)
    np.testing.assert_allclose(predict_soft_labels(constant, ["x"]), [[1 / 30, 1 / 30, 28 / 30]], atol=1e-6)
    np.testing.assert_array_equal(
        predict_soft_labels(constant, ["x"], temperature=0.5), predict_soft_labels(constant, ["x"])
    )
    flattened = temper(predict_soft_labels(constant, ["x"]), 2.0)
    np.testing.assert_allclose(predict_soft_labels(constant, ["x"], temperature=2.0), flattened, atol=1e-6)
    for temperature in (0.5, 2.0):
        rows = predict_soft_labels(constant, ["x"], temperature=temperature)
        bias = prediction_bias([constant], seed=1, temperature=temperature)
        assert prediction_confidence(rows, bias) == pytest.approx(0.0, abs=1e-6)
    plain = train_teacher(SPEC, EXAMPLES, PLAIN, seed=1)
    before = predict_soft_labels(plain, ["x"])
    calibrate(plain, LabelledTexts((), np.zeros(0, dtype=np.int64)))
    np.testing.assert_array_equal(predict_soft_labels(plain, ["x"]), before)


@pytest.mark.parametrize(("count", "changes"), [(LEAST_VALIDATION - 1, False), (LEAST_VALIDATION, True)])
def test_a_few_validation_examples_are_too_few_for_a_temperature(count, changes, caplog):
    teacher = train_teacher(SPEC, EXAMPLES, PLAIN, seed=1)
    before = predict_soft_labels(teacher, ["x"])
    with caplog.at_level("INFO"):
        calibrate(teacher, part("val", count, 5))
    assert (np.abs(predict_soft_labels(teacher, ["x"]) - before).max() > 1e-3) == changes
    assert ("fewer than 20 validation examples" in caplog.text) != changes


def test_a_teacher_that_is_right_on_its_whole_validation_split_is_not_sharpened_without_limit(caplog):
    right = SplitExamples(EXAMPLES.train, part("train", 60, 0), EXAMPLES.test)
    plain, calibrated = (train_teacher(SPEC, right, settings, seed=1) for settings in (PLAIN, CALIBRATED))
    np.testing.assert_array_equal(predict_soft_labels(calibrated, ["x"]), predict_soft_labels(plain, ["x"]))
    assert "right on its whole validation split" in caplog.text


@pytest.mark.parametrize("mechanism", ["dp-sgd", "pate", "gaussian"])
def test_a_mechanism_with_a_guarantee_refuses_it(run_config, mechanism):
    keys = {"privacy.mechanism": mechanism, "weights.scheme": "uniform", "teacher.calibrate": True}
    with pytest.raises(ConfigError, match=r"teacher\.calibrate = true reads the validation split, .* use false$"):
        run_config(keys=keys)


def test_settings_at_their_defaults_leave_the_digests_of_version_0_1():
    """Kept noisy rows must be found again: another digest would draw and charge them anew."""
    assert teacher_digest(SPEC, EXAMPLES, TeacherConfig(), 1) == (
        "015c4f4bf70f1902214c1187a743a4b98c42a1af2d4801ff1e97518b34201e44"
    )
