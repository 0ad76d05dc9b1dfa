import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knot_fed.errors import GroundCostError, SoftLabelsError
from knot_fed.transport import Accuracy, check_ground_cost, sinkhorn_divergence, transport_cost
from knot_fed.transport.solvers.sinkhorn import sinkhorn
from tests.transport.problems import confident_rows, distances, logit_gradient, program

FAST = Accuracy(entropic_epsilon=0.01, marginal_error=0.01)
seeds = st.integers(0, 2**32 - 1)


def errors(classes, rows, accuracy):
    """Return the largest relative error of the value and the relative L2 error of the gradient to the logits."""
    generator = np.random.default_rng(classes)
    matrix = distances(generator.normal(size=(classes, 8)))
    cost = check_ground_cost(matrix)
    a, b = confident_rows(generator, rows, classes), confident_rows(generator, rows, classes)
    truth, potentials = program(a, b, matrix)
    leaf = a.clone().requires_grad_()
    costs = transport_cost(leaf, b, cost, solver="sinkhorn", accuracy=accuracy)
    costs.sum().backward()
    ours, exact = logit_gradient(a, leaf.grad), logit_gradient(a, torch.from_numpy(potentials))
    value = np.abs(costs.detach().numpy() / truth - 1).max()
    return value, float((ours - exact).norm() / exact.norm())


@pytest.mark.parametrize("classes", [16, 28, 64, 128])
def test_defaults_come_within_two_thousandths_in_value_and_two_hundredths_in_gradient(classes):
    value, gradient = errors(classes, 64, Accuracy())
    assert value < 2e-3
    assert gradient < 2e-2


@pytest.mark.long
@pytest.mark.parametrize("classes", [256, 512, 1000])
def test_defaults_hold_for_many_labels(classes):
    value, gradient = errors(classes, 12, Accuracy())
    assert value < 2e-3
    assert gradient < 2e-2


def test_the_fast_mode_comes_within_one_hundredth_in_value():
    value, gradient = errors(64, 64, FAST)
    assert value < 1e-2
    assert gradient < 5e-2


@settings(max_examples=40)
@given(seeds, st.integers(2, 24), st.sampled_from([Accuracy(), FAST, Accuracy(0.2, 0.05)]))
def test_reported_bounds_hold_the_exact_cost(seed, classes, accuracy):
    generator = np.random.default_rng(seed)
    matrix = distances(generator.normal(size=(classes, 3)))
    a, b = (torch.from_numpy(generator.dirichlet(np.ones(classes), size=6)) for _ in range(2))
    report = transport_cost(a, b, check_ground_cost(matrix), solver="sinkhorn", accuracy=accuracy, report=True)
    truth, _ = program(a, b, matrix)
    assert (report.lower.numpy() <= truth + 1e-9).all()
    assert (report.upper.numpy() >= truth - 1e-9).all()
    assert report.solver == "sinkhorn"
    assert report.iterations > 0


def test_default_bounds_are_tight_and_exact_ones_equal():
    generator = np.random.default_rng(1)
    cost = check_ground_cost(distances(generator.normal(size=(20, 8))))
    a, b = confident_rows(generator, 32, 20), confident_rows(generator, 32, 20)
    report = transport_cost(a, b, cost, solver="sinkhorn", report=True)
    assert ((report.upper - report.lower) < 0.02 * report.cost).all()
    exact = transport_cost(a, b, cost, solver="lp", report=True)
    torch.testing.assert_close(exact.lower, exact.upper)
    assert exact.marginal_error == 0


@settings(max_examples=10)
@given(seeds)
def test_without_the_triangle_inequality_it_follows_the_linear_program(seed):
    generator = np.random.default_rng(seed)
    squared = distances(generator.normal(size=(9, 2))) ** 2
    cost = check_ground_cost(squared, metric=False)
    a, b = confident_rows(generator, 8, 9), confident_rows(generator, 8, 9)
    truth, _ = program(a, b, squared)
    costs = transport_cost(a, b, cost, solver="sinkhorn").numpy()
    assert (np.abs(costs - truth) <= 5e-3 * truth + 1e-3 * squared.max()).all()


ROWS = torch.eye(12, dtype=torch.float64)


@pytest.mark.parametrize("solver", ["auto", "lp", "sinkhorn"])
@pytest.mark.parametrize("epsilon", [1 / 600, 1e-2, 1e-12, 1.0])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (ROWS, ROWS),
        (ROWS, ROWS.flip(0)),
        (torch.full_like(ROWS, 1 / 12), ROWS),
        (ROWS, ROWS + 1e-12),
        (torch.softmax(1e4 * ROWS.flip(1), dim=1), torch.full_like(ROWS, 1 / 12)),
        (0.999_99 * ROWS, 1.000_01 * ROWS.roll(1, 0)),
    ],
)
def test_extreme_rows_give_finite_costs_and_gradients(solver, epsilon, a, b):
    cost = check_ground_cost(distances(np.random.default_rng(2).normal(size=(12, 3))))
    for dtype in (torch.float64, torch.float32):
        leaf = a.to(dtype).clone().requires_grad_()
        costs = transport_cost(leaf, b.to(dtype), cost, solver=solver, accuracy=Accuracy(epsilon))
        costs.sum().backward()
        assert torch.isfinite(costs).all()
        assert torch.isfinite(leaf.grad).all()
        truth, _ = program(a, b, cost.matrix.numpy())
        if epsilon < 0.01:
            np.testing.assert_allclose(costs.detach().numpy(), truth, rtol=2e-3, atol=1e-4 * cost.diameter)


@pytest.mark.parametrize("solver", ["auto", "lp", "sinkhorn"])
def test_one_label_and_labels_at_one_place_cost_nothing(solver):
    for classes in (1, 3):
        cost = check_ground_cost(np.zeros((classes, classes)), distinct=False)
        a = torch.softmax(torch.arange(float(classes)), dim=0)[None]
        assert float(transport_cost(a, a.flip(1), cost, solver=solver)) == 0
        assert abs(float(sinkhorn_divergence(a, a.flip(1), cost))) < 1e-8


@pytest.mark.parametrize("solver", ["auto", "sinkhorn"])
def test_not_a_number_stays_not_a_number(solver):
    cost = check_ground_cost(distances(np.random.default_rng(2).normal(size=(12, 3))))
    rows = torch.full((2, 12), 1 / 12)
    rows[1] = float("nan")
    if solver == "sinkhorn":
        values = transport_cost(rows, ROWS[:2].float(), cost, solver=solver, check=False)
        assert torch.isfinite(values).tolist() == [True, False]
    with pytest.raises(SoftLabelsError, match="a: row 1 sums to nan"):
        transport_cost(rows, ROWS[:2].float(), cost, solver=solver)


def test_a_row_that_is_no_distribution_is_named():
    cost = check_ground_cost(1 - np.eye(3))
    rows = torch.full((2, 3), 1 / 3)
    teachers = torch.full((2, 2, 3), 1 / 3)
    teachers[1, 0] = torch.tensor([0.9, 0.5, -0.4])
    with pytest.raises(SoftLabelsError, match=r"b: row 1, teacher 0 sums to 1\.0000 with a lowest entry of -0\.4"):
        transport_cost(rows, teachers, cost)
    with pytest.raises(SoftLabelsError, match=r"a: row 0 sums to 0\.6667"):
        transport_cost(rows * torch.tensor([2.0, 2.0, 0.0]) / 2, rows, cost)
    for wrong in (0.0, float("nan"), float("inf")):
        with pytest.raises(GroundCostError, match="give finite numbers > 0"):
            Accuracy(entropic_epsilon=wrong)
        with pytest.raises(GroundCostError, match="give finite numbers > 0"):
            sinkhorn_divergence(rows, rows, cost, entropic_epsilon=wrong)


def blurred(generator, rows, classes):
    return torch.from_numpy(generator.dirichlet(np.full(classes, 0.7), size=rows))


@settings(max_examples=15)
@given(seeds, st.integers(2, 12), st.sampled_from([0.1, 0.3, 1.0]))
def test_the_divergence_is_positive_symmetric_and_zero_iff_equal(seed, classes, epsilon):
    generator = np.random.default_rng(seed)
    cost = check_ground_cost(distances(generator.normal(size=(classes, 2))))
    a, b = blurred(generator, 5, classes), blurred(generator, 5, classes)
    there = sinkhorn_divergence(a, b, cost, entropic_epsilon=epsilon)
    slack = 1e-4 * cost.diameter
    assert (there >= -slack).all()
    np.testing.assert_allclose(there, sinkhorn_divergence(b, a, cost, entropic_epsilon=epsilon), atol=slack)
    np.testing.assert_allclose(sinkhorn_divergence(a, a, cost, entropic_epsilon=epsilon), 0, atol=slack)
    apart = (a - b).abs().sum(dim=1) > 0.2
    assert (there[apart] > 1e-5).all()


def test_the_divergence_has_the_gradient_of_central_differences():
    generator = np.random.default_rng(8)
    cost = check_ground_cost(distances(generator.normal(size=(5, 2))))
    a, b = blurred(generator, 6, 5).requires_grad_(), blurred(generator, 6, 5)
    options = {"entropic_epsilon": 0.3, "marginal_error": 1e-10}
    sinkhorn_divergence(a, b, cost, **options).sum().backward()
    direction = torch.from_numpy(generator.normal(size=(6, 5)))
    direction -= direction.mean(dim=1, keepdim=True)
    step = 1e-4
    with torch.no_grad():
        up, down = (sinkhorn_divergence(a + sign * step * direction, b, cost, **options) for sign in (1, -1))
    slope = (up - down) / (2 * step)
    torch.testing.assert_close((a.grad * direction).sum(dim=1), slope, atol=1e-5, rtol=1e-4)


def test_the_divergence_nears_the_transport_cost_as_epsilon_falls():
    generator = np.random.default_rng(9)
    matrix = distances(generator.normal(size=(8, 2)))
    cost = check_ground_cost(matrix)
    a, b = blurred(generator, 12, 8), blurred(generator, 12, 8)
    truth, _ = program(a, b, matrix)
    gaps = [
        np.abs(sinkhorn_divergence(a, b, cost, entropic_epsilon=epsilon, marginal_error=1e-4).numpy() - truth).mean()
        for epsilon in (0.3, 0.1, 0.02)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.1 * truth.mean()


@settings(max_examples=10)
@given(seeds, st.sampled_from([0.01, 1 / 600, 1e-5]))
def test_masses_of_any_size_give_finite_values_at_any_epsilon(seed, epsilon):
    generator = np.random.default_rng(seed)
    cost = check_ground_cost(distances(generator.normal(size=(5, 2))))
    sparse = [np.concatenate([generator.dirichlet(np.full(5, 0.05), size=20), np.eye(5)]) for _ in range(2)]
    a, b = torch.from_numpy(sparse[0]), torch.from_numpy(sparse[1][::-1].copy())
    truth, _ = program(a, b, cost.matrix.numpy())
    divergence = sinkhorn_divergence(a, b, cost, entropic_epsilon=epsilon)
    np.testing.assert_allclose(divergence.numpy(), truth, atol=2 * max(epsilon, 1 / 900) * cost.diameter)
    solved = sinkhorn(a, b, cost.matrix, entropic_epsilon=epsilon, marginal_error=0.01)
    value = (solved.f * a).sum(dim=1) + (solved.g * b).sum(dim=1)
    np.testing.assert_allclose(value.numpy(), truth, atol=0.02 * cost.diameter)
