import numpy as np
import pytest
import torch

from knot_fed.errors import GroundCostError
from knot_fed.labels import LabelSpace
from knot_fed.transport import check_ground_cost, make_ground_cost
from knot_fed.transport.solve import choose_solver
from tests.transport.problems import distances

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("matrix", "rule"),
    [
        ([[0, 1, 5], [1, 0, 1], [5, 1, 0]], "'x' and 'z' breaks the triangle inequality"),
        ([[0, 1, 1], [2, 0, 1], [1, 1, 0]], "'x' and 'y' is not symmetric"),
        ([[0, 1, 1], [1, 1, 1], [1, 1, 0]], "'y' and 'y' is not 0 on the diagonal"),
        ([[0, -1, 1], [-1, 0, 1], [1, 1, 0]], "'x' and 'y' is negative"),
        ([[0, np.nan, 1], [1, 0, 1], [1, 1, 0]], "'x' and 'y' is not finite"),
        ([[0, np.inf, 1], [np.inf, 0, 1], [1, 1, 0]], "'x' and 'y' is not finite"),
        ([[0, 2, 2], [2, 0, 0], [2, 0, 0]], r"'y' and 'z' is 0 off the diagonal \(distinct=False"),
        ([[0, 1], [1, 0]], "for 3 labels"),
        ([[0, 1, 1]], "for 3 labels"),
    ],
)
def test_a_matrix_that_is_no_metric_is_refused_by_pair_and_rule(matrix, rule):
    with pytest.raises(GroundCostError, match=rule):
        check_ground_cost(np.array(matrix, dtype=float), names=("x", "y", "z"))


@pytest.mark.parametrize("matrix", ["x", [[0, 1], [1]], [[0, 1j], [1j, 0]], torch.eye(2).requires_grad_()])
def test_what_is_no_matrix_of_numbers_is_refused(matrix):
    with pytest.raises(GroundCostError, match="cannot be read as a matrix of real numbers"):
        check_ground_cost(matrix)


def test_a_tensor_is_a_matrix_too():
    assert len(check_ground_cost(1 - torch.eye(3))) == 3


@pytest.mark.parametrize("shape", [(0,), (0, 0), (), (1, 1, 1), (2, 3)])
def test_a_matrix_without_one_row_and_column_for_each_label_is_refused(shape):
    with pytest.raises(GroundCostError, match="give one row and column each"):
        check_ground_cost(np.zeros(shape))


def test_a_cost_without_the_triangle_inequality_passes_when_told():
    squared = distances(np.arange(4.0)[:, None]) ** 2
    cost = check_ground_cost(squared, metric=False)
    assert not cost.metric
    assert cost.table is None
    assert choose_solver(cost, "auto", CPU) == "lp"
    with pytest.raises(GroundCostError, match="does not apply"):
        choose_solver(cost, "table", CPU)


def test_labels_at_one_place_pass_when_told():
    cost = check_ground_cost(distances(np.array([[3.0], [0.0], [1.0], [1.0]])), distinct=False)
    assert cost.cuts.shape == "line"


@pytest.mark.parametrize(
    ("matrix", "picked"),
    [
        (distances(np.array([[2.0], [0.0], [5.0]])), "line"),
        (3 * (1 - np.eye(40)), "star"),
        (distances(np.random.default_rng(0).normal(size=(8, 2))), "table"),
        (distances(np.random.default_rng(0).normal(size=(9, 2))), "lp"),
        (distances(np.random.default_rng(0).normal(size=(300, 2))), "sinkhorn"),
    ],
)
def test_auto_picks_the_exact_route_where_it_is_cheap_and_says_so(matrix, picked):
    assert choose_solver(check_ground_cost(matrix), "auto", CPU) == picked


def test_an_unknown_solver_or_cost_is_named():
    cost = make_ground_cost("augmented", LabelSpace.preset("sentiment"))
    with pytest.raises(GroundCostError, match="solver 'line' does not apply"):
        choose_solver(cost, "line", CPU)
    with pytest.raises(GroundCostError, match="no solver 'magic'"):
        choose_solver(cost, "magic", CPU)
    with pytest.raises(GroundCostError, match="no ground cost 'odd'; use semantic"):
        make_ground_cost("odd", LabelSpace.preset("nli"))


def test_the_augmented_cost_is_that_of_the_public_code():
    cost = make_ground_cost("augmented", LabelSpace.preset("sentiment")).matrix
    i, j = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    expected = torch.sqrt(2 + (i - j) ** 2) * (i != j)
    torch.testing.assert_close(cost, expected.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["semantic", "augmented", "zero-one", "cosine"])
def test_labels_without_coordinates_are_all_one_apart_whatever_the_cost_is_called(name):
    cost = make_ground_cost(name, LabelSpace.from_text("cat, dog, bird", ""))
    assert cost.matrix.tolist() == (1 - np.eye(3)).tolist()
    assert cost.cuts.shape == "star"
    ordered = make_ground_cost("semantic", LabelSpace.from_text("cat, dog, bird", "", ordered=True))
    assert ordered.matrix.tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]


def test_a_thousand_labels_without_coordinates_take_no_more_room_than_their_matrix():
    """Corners of a simplex would take a thousand numbers per label, also in the handshake."""
    labels = LabelSpace.from_text(",".join(f"label {row}" for row in range(1000)), "")
    assert len(labels.to_json()) < 20_000
    assert labels.diameter == 1


def test_cosine_is_the_distance_of_directions():
    labels = LabelSpace(("east", "far east", "north", "west"), np.array([[1.0, 0], [9, 0.1], [0, 2], [-3, 0]]))
    matrix = make_ground_cost("cosine", labels).matrix
    assert matrix[0, 1] < 0.02
    np.testing.assert_allclose(matrix[0, 2:], [np.sqrt(2), 2.0])
    with pytest.raises(GroundCostError, match="'neutral' lies at the origin"):
        make_ground_cost("cosine", LabelSpace.preset("emotion"))
