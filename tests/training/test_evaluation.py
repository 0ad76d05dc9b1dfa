import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.labels import LabelSpace
from knot_fed.training.evaluation import (
    BOOTSTRAPPED,
    RESAMPLES,
    _per_text,
    _resampled,
    bootstrap_intervals,
    calibration_error,
    distances_to_truth,
    evaluate_classifier,
    evaluation_details,
    semantic_distances,
)

TASKS = st.sampled_from(["sentiment", "emotion", "nli"])


@given(st.integers(0, 2**32 - 1), TASKS)
def test_semantic_distance_never_exceeds_the_transport_cost_to_truth(seed, task):
    generator, labels = np.random.default_rng(seed), LabelSpace.preset(task)
    soft_labels = generator.dirichlet(np.ones(len(labels)), size=20)
    truth = generator.integers(0, len(labels), size=20)
    assert (
        semantic_distances(soft_labels, truth, labels) <= distances_to_truth(soft_labels, truth, labels) + 1e-12
    ).all()


@given(st.integers(0, 2**32 - 1), TASKS)
def test_a_perfect_prediction_has_perfect_metrics(seed, task):
    labels = LabelSpace.preset(task)
    truth = np.random.default_rng(seed).integers(0, len(labels), size=12)
    metrics = evaluate_classifier(np.eye(len(labels))[truth], truth, labels)
    assert (metrics.sd, metrics.w1, metrics.ece, metrics.accuracy, metrics.macro_f1) == (0, 0, 0, 1, 1)


def test_mass_split_evenly_around_the_truth_fools_sd_but_not_w1():
    labels = LabelSpace.preset("nli")
    metrics = evaluate_classifier(np.array([[0.5, 0.0, 0.5]]), np.array([1]), labels)
    assert (metrics.sd, metrics.w1) == (0.0, 1.0)


def test_labels_count_the_same_however_often_they_occur():
    labels = LabelSpace.preset("nli")
    rows = np.array([[1.0, 0, 0]] * 9 + [[1.0, 0, 0]])
    assert evaluate_classifier(rows, np.array([0] * 9 + [2]), labels).sd == 1.0


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    rows = np.tile([0.8, 0.2], (10, 1))
    assert np.isclose(calibration_error(rows, np.array([0] * 5 + [1] * 5)), 0.3)


def test_an_empty_test_set_has_no_examples():
    assert evaluate_classifier(np.zeros((0, 3)), np.zeros(0, dtype=np.int64), LabelSpace.preset("nli")).examples == 0


@given(st.integers(0, 2**32 - 1), TASKS)
def test_details_add_up_to_the_metrics(seed, task):
    generator, labels = np.random.default_rng(seed), LabelSpace.preset(task)
    soft_labels = generator.dirichlet(np.ones(len(labels)), size=40)
    truth = generator.integers(0, len(labels), size=40)
    details, metrics = (judge(soft_labels, truth, labels) for judge in (evaluation_details, evaluate_classifier))
    assert np.isclose(details.confusion.trace() / 40, metrics.accuracy)
    assert (details.confusion.sum(axis=1) == np.bincount(truth, minlength=len(labels))).all()
    assert sum(held.count for held in details.reliability) == 40
    means = details.mean_predictions[np.unique(truth)]
    assert np.allclose(means.sum(axis=1), 1)
    apart = np.linalg.norm(labels.coordinates[:, None] - labels.coordinates[None], axis=2)
    assert np.isclose((means * apart[np.unique(truth)]).sum(axis=1).mean(), metrics.w1)


def test_details_of_an_empty_test_set_are_zero():
    details = evaluation_details(np.zeros((0, 3)), np.zeros(0, dtype=np.int64), LabelSpace.preset("nli"))
    assert (details.confusion.sum(), details.mean_predictions.sum(), details.reliability) == (0, 0, ())


@given(st.integers(0, 10**6), st.integers(2, 9))
def test_without_coordinates_labels_are_the_corners_of_a_simplex_with_edges_of_one(seed, classes):
    generator = np.random.default_rng(seed)
    soft_labels, truth = generator.dirichlet(np.ones(classes), size=20), generator.integers(0, classes, size=20)
    names = tuple(f"label {label}" for label in range(classes))
    unordered = LabelSpace.from_text(",".join(names), "")
    corners = LabelSpace(names, np.eye(classes) / np.sqrt(2))
    for measure in (semantic_distances, distances_to_truth):
        np.testing.assert_allclose(
            measure(soft_labels, truth, unordered), measure(soft_labels, truth, corners), rtol=1e-9, atol=1e-7
        )
    np.testing.assert_allclose(
        distances_to_truth(soft_labels, truth, unordered), 1 - soft_labels[np.arange(20), truth], atol=1e-12
    )


@given(st.integers(0, 2**32 - 1), TASKS)
def test_a_resample_is_measured_as_the_texts_that_it_holds(seed, task):
    generator, labels = np.random.default_rng(seed), LabelSpace.preset(task)
    soft_labels = generator.dirichlet(np.ones(len(labels)), size=30)
    truth, rows = generator.integers(0, len(labels), size=30), generator.integers(0, 30, size=30)
    drawn = np.bincount(rows, minlength=30)[None].astype(float)
    found = _resampled(drawn, np.eye(len(labels))[truth], *_per_text(soft_labels, truth, labels))[0]
    whole = evaluate_classifier(soft_labels[rows], truth[rows], labels).to_mapping()
    np.testing.assert_allclose(found, [whole[metric] for metric in BOOTSTRAPPED], atol=1e-9)


def test_bootstrap_intervals_are_paired_repeatable_and_hold_what_was_measured():
    generator, labels = np.random.default_rng(5), LabelSpace.preset("sentiment")
    truth = generator.integers(0, 5, size=400)
    before = generator.dirichlet(np.ones(5), size=400)
    after = 0.9 * before + 0.1 * np.eye(5)[truth]
    found = bootstrap_intervals(before, after, truth, labels, seed=1)
    assert found == bootstrap_intervals(before, after, truth, labels, seed=1)
    assert found["resamples"] == RESAMPLES
    measured = [evaluate_classifier(answers, truth, labels).to_mapping() for answers in (before, after)]
    for metric in BOOTSTRAPPED:
        values = dict(zip(("before", "after"), (each[metric] for each in measured), strict=True))
        values["difference"] = values["after"] - values["before"]
        widths = {}
        for when, value in values.items():
            low, high = found[metric][when]
            assert low < value < high
            widths[when] = high - low
        assert widths["difference"] < widths["before"]
    assert bootstrap_intervals(before[:0], after[:0], truth[:0], labels, seed=1) == {}
