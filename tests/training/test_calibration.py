import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from knot_fed.labels import LabelSpace
from knot_fed.training.calibration import (
    LEAST_TEMPERATURE,
    MOST_TEMPERATURE,
    fit_temperature,
    negative_log_likelihood,
    temper,
)
from knot_fed.training.evaluation import evaluate_classifier

SEEDS = st.integers(0, 2**32 - 1)
TEMPERATURES = st.floats(LEAST_TEMPERATURE, MOST_TEMPERATURE)


def drawn(seed, *, sharpness=3.0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=sharpness, size=(60, 5))
    return logits, generator.integers(0, 5, size=60)


@given(SEEDS, TEMPERATURES)
def test_temperature_scaling_keeps_the_arg_max_and_is_that_of_the_logits(seed, temperature):
    logits, _ = drawn(seed)
    rows = temper(softmax(logits, axis=1), temperature)
    assert (rows.argmax(axis=1) == logits.argmax(axis=1)).all()
    np.testing.assert_allclose(rows, softmax(logits / temperature, axis=1), atol=1e-9)


@given(SEEDS, st.floats(0.01, 30))
def test_the_fitted_temperature_never_fits_worse_than_one(seed, sharpness):
    logits, labels = drawn(seed, sharpness=sharpness)
    rows = softmax(logits, axis=1)
    fitted = fit_temperature(rows, labels)
    assert LEAST_TEMPERATURE <= fitted <= MOST_TEMPERATURE
    assert negative_log_likelihood(rows, labels, temperature=fitted) <= negative_log_likelihood(rows, labels)


def test_the_fitted_temperature_undoes_a_sharpening():
    generator = np.random.default_rng(3)
    honest = softmax(generator.normal(scale=1.5, size=(4000, 4)), axis=1)
    labels = np.array([generator.choice(4, p=row) for row in honest])
    for sharpening in (0.25, 3.0):
        fitted = fit_temperature(temper(honest, 1 / sharpening), labels)
        assert abs(np.log(fitted / sharpening)) < 0.1


def test_a_saturated_row_that_is_wrong_still_has_a_finite_loss():
    rows = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    assert np.isfinite(negative_log_likelihood(rows, np.array([0, 1])))
    assert fit_temperature(rows, np.array([0, 1])) > 0.99 * MOST_TEMPERATURE


def test_no_examples_leave_the_temperature_at_one():
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == 1.0


@given(SEEDS, st.floats(0.2, 5))
def test_calibrated_sd_is_blind_to_sharpness(seed, sharpening):
    """Sharpening alone gains nothing: calibrated on the same examples, all sharpnesses measure the same."""
    logits, labels = drawn(seed, sharpness=1.0)
    labels[:40] = logits[:40].argmax(axis=1)  # better than chance, so that the fitted temperature is inside its limits
    space = LabelSpace.preset("sentiment")
    plain, sharpened = softmax(logits, axis=1), softmax(logits * sharpening, axis=1)
    told = [
        evaluate_classifier(rows, labels, space, temperature=fit_temperature(rows, labels)).sd_calibrated
        for rows in (plain, sharpened)
    ]
    assert abs(told[0] - told[1]) < 2e-3
