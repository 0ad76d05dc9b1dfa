import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knot_fed.errors import GroundCostError
from knot_fed.labels import LabelSpace
from knot_fed.transport import OTLoss, check_ground_cost, make_ground_cost, transport_cost

seeds = st.integers(0, 2**32 - 1)
TASKS = ("sentiment", "emotion", "nli")
COSTS = ("semantic", "augmented", "zero-one")


def random_labels(generator, classes, dimensions):
    return LabelSpace(tuple(f"l{i}" for i in range(classes)), generator.normal(size=(classes, dimensions)))


def random_rows(generator, rows, classes, sharpness=1.0):
    return torch.from_numpy(generator.dirichlet(np.full(classes, sharpness), size=rows))


def linear_programs(a, b, matrix):
    return np.array([ot.emd2(p / p.sum(), q / q.sum(), matrix) for p, q in zip(a.numpy(), b.numpy(), strict=True)])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", COSTS)
@settings(deadline=None, max_examples=20)
@given(seeds)
def test_auto_is_the_linear_program_on_every_preset(task, name, seed):
    generator = np.random.default_rng(seed)
    labels = LabelSpace.preset(task)
    cost = make_ground_cost(name, labels)
    a, b = (random_rows(generator, 8, len(labels), sharpness) for sharpness in (1.0, 0.1))
    truth = linear_programs(a, b, cost.matrix.numpy())
    np.testing.assert_allclose(transport_cost(a, b, cost).numpy(), truth, atol=1e-9)
    np.testing.assert_allclose(transport_cost(a, b, cost, solver="lp").numpy(), truth, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(3, 7), st.integers(2, 4))
def test_the_table_is_exact_on_random_metrics(seed, classes, dimensions):
    generator = np.random.default_rng(seed)
    cost = make_ground_cost("semantic", random_labels(generator, classes, dimensions))
    a, b = random_rows(generator, 16, classes, 0.5), random_rows(generator, 16, classes, 0.5)
    truth = linear_programs(a, b, cost.matrix.numpy())
    np.testing.assert_allclose(transport_cost(a, b, cost, solver="table").numpy(), truth, atol=1e-8)


@pytest.mark.parametrize("solver", ["table", "lp", "sinkhorn", "line"])
def test_gradients_are_central_differences_along_the_simplex(solver):
    generator = np.random.default_rng(3)
    cost = make_ground_cost("semantic" if solver == "line" else "augmented", LabelSpace.preset("sentiment"))
    a, b = random_rows(generator, 6, 5), random_rows(generator, 6, 5)
    a.requires_grad_()
    transport_cost(a, b, cost, solver=solver).sum().backward()
    direction = torch.from_numpy(generator.normal(size=(6, 5)))
    direction -= direction.mean(dim=1, keepdim=True)
    step = 1e-6
    with torch.no_grad():
        up = transport_cost(a + step * direction, b, cost, solver=solver)
        down = transport_cost(a - step * direction, b, cost, solver=solver)
    slope = ((up - down) / (2 * step)).numpy()
    np.testing.assert_allclose(
        (a.grad * direction).sum(dim=1).numpy(), slope, atol=1e-6 if solver != "sinkhorn" else 1e-2
    )


@settings(deadline=None, max_examples=20)
@given(seeds, st.sampled_from(["table", "lp", "sinkhorn"]))
def test_costs_are_symmetric_and_linear_in_the_ground_cost(seed, solver):
    generator = np.random.default_rng(seed)
    labels = LabelSpace.preset("emotion")
    cost = make_ground_cost("semantic", labels)
    doubled = check_ground_cost(2 * cost.matrix.numpy(), names=labels.names)
    a, b = random_rows(generator, 4, 5), random_rows(generator, 4, 5)
    there = transport_cost(a, b, cost, solver=solver)
    np.testing.assert_allclose(there, transport_cost(b, a, cost, solver=solver), atol=2e-3)
    np.testing.assert_allclose(2 * there, transport_cost(a, b, doubled, solver=solver), atol=1e-9)


def test_sinkhorn_comes_close_to_the_linear_program_for_many_labels():
    generator = np.random.default_rng(5)
    cost = make_ground_cost("semantic", random_labels(generator, 20, 4))
    a, b = random_rows(generator, 16, 20), random_rows(generator, 16, 20)
    truth = linear_programs(a, b, cost.matrix.numpy())
    np.testing.assert_allclose(transport_cost(a, b, cost).numpy(), truth, rtol=0.03)


@pytest.mark.parametrize("solver", ["table", "lp", "sinkhorn"])
def test_equal_and_one_hot_rows_are_finite_with_gradients(solver):
    cost = make_ground_cost("augmented", LabelSpace.preset("sentiment"))
    a = torch.eye(5, dtype=torch.float64, requires_grad=True)
    b = torch.eye(5, dtype=torch.float64)[[0, 2, 1, 3, 0]]
    value = transport_cost(a, b, cost, solver=solver)
    value.sum().backward()
    expected = cost.matrix[torch.arange(5), torch.tensor([0, 2, 1, 3, 0])]
    np.testing.assert_allclose(value.detach(), expected, atol=1e-3)
    assert torch.isfinite(a.grad).all()


def test_one_cost_for_each_teacher_and_the_loss_is_their_weighted_mean():
    generator = np.random.default_rng(7)
    cost = make_ground_cost("augmented", LabelSpace.preset("sentiment"))
    logits = torch.from_numpy(generator.normal(size=(4, 5))).float()
    b = random_rows(generator, 12, 5).reshape(4, 3, 5).float()
    weights = random_rows(generator, 4, 3).float()
    each = [transport_cost(logits.softmax(1), b[:, teacher], cost) for teacher in range(3)]
    expected = sum(weights[:, k] * each[k] for k in range(3)).mean()
    torch.testing.assert_close(OTLoss(cost)(logits, b, weights), expected)


def test_labels_in_any_order_on_a_line_and_at_one_place_are_exact():
    labels = LabelSpace(("a", "b", "c", "d"), np.array([[3.0], [0.0], [1.0], [1.0]]))
    cost = make_ground_cost("semantic", labels)
    generator = np.random.default_rng(9)
    a, b = random_rows(generator, 8, 4), random_rows(generator, 8, 4)
    np.testing.assert_allclose(transport_cost(a, b, cost), linear_programs(a, b, cost.matrix.numpy()), atol=1e-9)


@pytest.mark.parametrize(
    ("matrix", "rule"),
    [
        ([[0, 1, 5], [1, 0, 1], [5, 1, 0]], "'x' and 'z' breaks the triangle inequality"),
        ([[0, 1, 1], [2, 0, 1], [1, 1, 0]], "'x' and 'y' is not symmetric"),
        ([[0, 1, 1], [1, 1, 1], [1, 1, 0]], "'y' and 'y' is not 0 on the diagonal"),
        ([[0, -1, 1], [-1, 0, 1], [1, 1, 0]], "is negative"),
        ([[0, np.nan, 1], [1, 0, 1], [1, 1, 0]], "is not finite"),
        ([[0, 1], [1, 0]], "for 3 labels"),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], "0 between all labels"),
    ],
)
def test_a_ground_cost_that_is_no_metric_is_refused_by_name(matrix, rule):
    with pytest.raises(GroundCostError, match=rule):
        check_ground_cost(np.array(matrix, dtype=float), names=("x", "y", "z"))


def test_a_solver_that_does_not_apply_is_refused():
    cost = make_ground_cost("augmented", LabelSpace.preset("sentiment"))
    rows = torch.full((1, 5), 0.2)
    with pytest.raises(GroundCostError, match="does not apply"):
        transport_cost(rows, rows, cost, solver="line")
    with pytest.raises(GroundCostError, match="no solver"):
        transport_cost(rows, rows, cost, solver="magic")
