"""An overconfident start, left by early stopping by macro-F1: transport moves it only after calibration."""

import numpy as np
import pytest

from knot_fed.federation.server.run import calibrate_start, read_server_data, start_student
from knot_fed.labels import LabelSpace
from knot_fed.models import build_classifier
from knot_fed.training.calibration import negative_log_likelihood
from knot_fed.training.distillation import distil_student
from knot_fed.training.teacher import best_temperature, predict_soft_labels
from knot_fed.transport import OTLoss, make_ground_cost

pytestmark = pytest.mark.slow

SENTIMENT = LabelSpace.preset("sentiment")


@pytest.fixture
def started(run_config):
    """The built-in run's start with and without calibration, its public validation split and its transfer texts."""

    def start(**keys):
        keys = {"data.limit": 300, "teacher.epochs": 12, "teacher.patience": 12, "teacher.learning-rate": 0.05} | keys
        config = run_config(keys=keys)
        transfer, public = read_server_data(config)
        return start_student(config, public, transfer), public.val, transfer.texts

    return start


def transport(student, texts, run_config):
    """Distil by transport from one teacher that is confident of another label than the student."""
    taught = (predict_soft_labels(student, texts).argmax(axis=1) + 2) % len(SENTIMENT)
    settings = run_config(keys={"distill.epochs": 6, "distill.patience": 3}).distill
    loss, soft_labels = OTLoss(make_ground_cost("augmented", SENTIMENT)), np.eye(len(SENTIMENT))[taught][None]
    return distil_student(student, texts, soft_labels, np.ones((1, len(texts))), loss, settings, seed=1)


def test_the_start_fits_the_public_validation_split_at_temperature_one(started):
    calibrated, val, texts = started()
    plain, _, _ = started(**{"student.calibrate": False})
    temperature = best_temperature(plain, val)
    assert abs(np.log(temperature)) > 0.1
    assert abs(np.log(best_temperature(calibrated, val))) < 0.01
    np.testing.assert_array_equal(
        predict_soft_labels(calibrated, texts).argmax(axis=1), predict_soft_labels(plain, texts).argmax(axis=1)
    )
    fits = [negative_log_likelihood(predict_soft_labels(model, val.texts), val.labels) for model in (calibrated, plain)]
    assert fits[0] < fits[1]


def test_a_saturated_start_hardly_moves_and_a_calibrated_one_does(started, run_config):
    (sure, _, texts), (calibrated, _, _) = started(**{"student.calibrate": False}), started()
    assert sure.divide_logits(0.01)
    stuck, moved = transport(sure, texts, run_config), transport(calibrated, texts, run_config)
    assert stuck.saturated > 0.9
    assert fall(moved) > 3 * fall(stuck)


def fall(result):
    """Return the reduction of the held-out loss, as a share of its initial value."""
    return 1 - result.validation_losses[result.best_epoch] / result.validation_losses[0]


def test_a_start_that_is_not_pretrained_is_not_calibrated(started, run_config):
    student, _, texts = started(**{"student.pretrain": False})
    fresh = build_classifier(student.spec, seed=run_config().seed)
    np.testing.assert_array_equal(predict_soft_labels(student, texts), predict_soft_labels(fresh, texts))


def test_a_start_that_is_right_on_a_few_validation_rows_is_not_sharpened_without_end(started, run_config, caplog):
    student, val, texts = started(**{"student.calibrate": False})
    rows = predict_soft_labels(student, texts)
    right = val.select(np.flatnonzero(predict_soft_labels(student, val.texts).argmax(axis=1) == val.labels)[:3])
    assert best_temperature(student, right) < 0.06
    calibrate_start(run_config(), student, right)
    assert "ever better with more confidence, so it is not calibrated" in caplog.text
    np.testing.assert_array_equal(predict_soft_labels(student, texts), rows)
