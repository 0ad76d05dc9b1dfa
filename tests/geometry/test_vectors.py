"""Laws of the distances between labels: metrics by construction, whatever the vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from knot_fed.errors import GroundCostError
from knot_fed.geometry import confusion_vectors, kernel_vectors, points_with, unit_distances
from knot_fed.transport import check_ground_cost

SEEDS = st.integers(0, 2**32 - 1)


def rows_of(seed):
    return np.random.default_rng(seed).dirichlet(np.full(5, 0.5), size=12)


def vectors_of(kind, pooled, seed):
    if kind == "confusion":
        return confusion_vectors(pooled)
    return kernel_vectors(np.random.default_rng(seed).normal(size=(len(pooled), 7)).astype(np.float32), pooled)


@pytest.mark.parametrize("kind", ["confusion", "cka"])
@given(seed=SEEDS)
def test_learnt_costs_are_metrics_that_follow_a_permutation_of_the_labels(kind, seed):
    pooled = rows_of(seed)
    cost = unit_distances(vectors_of(kind, pooled, seed), source="rows")
    assert check_ground_cost(cost).metric  # symmetric, zero on the diagonal, triangle inequality
    assert cost.max() == 1
    order = np.random.default_rng(seed).permutation(5)
    moved = unit_distances(vectors_of(kind, pooled[:, order], seed), source="rows")
    np.testing.assert_allclose(moved, cost[np.ix_(order, order)], atol=1e-9)


@given(seed=SEEDS)
def test_the_confusion_cost_ignores_the_order_of_the_texts(seed):
    pooled = rows_of(seed)
    shuffled = pooled[np.random.default_rng(seed).permutation(len(pooled))]
    first, second = (unit_distances(confusion_vectors(rows), source="rows") for rows in (pooled, shuffled))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_the_confusion_cost_is_the_normalised_co_occurrence_by_hand():
    pooled = np.array([[0.6, 0.4, 0.0], [0.5, 0.5, 0.0], [0.1, 0.0, 0.9]])
    gram = pooled.T @ pooled
    cosines = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
    by_hand = np.sqrt(np.maximum(2 - 2 * cosines, 0))
    cost = unit_distances(confusion_vectors(pooled), source="rows")
    np.testing.assert_allclose(cost, by_hand / by_hand.max(), atol=1e-7)
    assert cost[0, 1] < cost[0, 2] < cost[1, 2]


def test_the_cosine_of_two_kernels_is_linear_cka():
    generator = np.random.default_rng(3)
    features, pooled = generator.normal(size=(40, 6)), generator.dirichlet(np.ones(3), size=40)
    kernels = kernel_vectors(features, pooled)
    centring = np.eye(40) - 1 / 40
    own = [centring @ np.diag(np.sqrt(pooled[:, label])) @ centring @ features for label in range(3)]
    for a, b in np.ndindex(3, 3):
        inner = [np.linalg.norm(own[x].T @ own[y]) for x, y in ((a, b), (a, a), (b, b))]
        cosine = kernels[a] @ kernels[b] / np.linalg.norm(kernels[a]) / np.linalg.norm(kernels[b])
        assert cosine == pytest.approx(inner[0] ** 2 / inner[1] / inner[2])


def test_a_label_without_mass_is_orthogonal_to_all_others():
    cost = unit_distances(confusion_vectors(np.array([[0.5, 0.5, 0, 0], [0.9, 0.1, 0, 0.0]])), source="rows")
    assert cost[2].tolist() == [1, 1, 0, 1]
    assert check_ground_cost(cost).metric


@pytest.mark.parametrize(
    ("vectors", "said"), [(np.ones((3, 2)), "no two labels apart"), (np.eye(2) * np.nan, "finite")]
)
def test_vectors_without_distances_are_refused(vectors, said):
    with pytest.raises(GroundCostError, match=f"the rows .*{said}.*use another transport.cost"):
        unit_distances(vectors, source="the rows")


@given(points=arrays(np.float64, (6, 3), elements=st.floats(-5, 5)))
def test_points_have_the_distances_that_points_can_have(points):
    distances = cdist(points, points)
    if distances.max() < 1e-3:
        return
    found, error = points_with(distances)
    assert error < 1e-4
    assert found.shape[1] < 6
    np.testing.assert_allclose(cdist(found, found), distances, atol=1e-4 * distances.max())


def test_points_of_a_metric_that_no_points_have_say_by_how_much_they_differ():
    ring = np.array([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0.0]])  # steps around a square
    found, error = points_with(ring)
    assert error == pytest.approx(np.abs(cdist(found, found) - ring).max() / 2)
    assert 0.1 < error < 0.3
