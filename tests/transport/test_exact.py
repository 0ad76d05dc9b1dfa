import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from knot_fed.labels import LabelSpace
from knot_fed.transport import check_ground_cost, make_ground_cost, transport_cost
from knot_fed.transport.solvers.table import vertex_table
from tests.transport.problems import LABELS_OF_KNOT, distances, prepared, program, random_rows

EXACT = ("table", "lp")
seeds = st.integers(0, 2**32 - 1)


def solved(a, b, cost, solver="auto"):
    """Return costs and the gradient with respect to `a`."""
    a = a.clone().requires_grad_()
    costs = transport_cost(a, b, cost, solver=solver)
    costs.sum().backward()
    return costs.detach(), a.grad


@pytest.mark.parametrize("classes", range(2, 9))
def test_ten_thousand_problems_agree_with_the_linear_program_in_value_and_gradient(classes):
    """With zeros, ties and one-hot rows; the gradient is a feasible potential."""
    generator = np.random.default_rng(classes)
    for _ in range(36):
        cost, matrix = prepared(generator, classes)
        a, b = random_rows(generator, 40, classes), random_rows(generator, 40, classes)
        truth, _ = program(a, b, matrix)
        bar = 1e-5 * truth + 1e-6 * matrix.max()
        for solver in ("auto", "table", "lp"):
            costs, gradient = solved(a, b, cost, solver)
            assert (np.abs(costs.numpy() - truth) <= bar).all()
            stretch = gradient[:, :, None] - gradient[:, None, :] - cost.matrix[None]
            assert stretch.max() <= 1e-6 * matrix.max()
            assert ((gradient * (a - b)).sum(dim=1).numpy() >= truth - bar).all()
        single = transport_cost(a.float(), b.float(), cost).numpy()
        assert (np.abs(single - truth) <= bar).all()


@pytest.mark.parametrize("solver", ["auto", "table", "lp"])
@settings(max_examples=20)
@given(seeds, st.integers(3, 8))
def test_gradients_are_central_differences_along_the_simplex(solver, seed, classes):
    generator = np.random.default_rng(seed)
    matrix = distances(generator.normal(size=(classes, 3)))
    cost = check_ground_cost(matrix)
    a, b = (torch.from_numpy(generator.dirichlet(np.ones(classes), size=8)) for _ in range(2))
    direction = torch.from_numpy(generator.normal(size=(8, classes)))
    direction -= direction.mean(dim=1, keepdim=True)
    step = 1e-7 * a.amin(dim=1, keepdim=True).clamp(min=1e-3)
    up, down = (transport_cost(a + sign * step * direction, b, cost, solver=solver, check=False) for sign in (1, -1))
    centre, gradient = solved(a, b, cost, solver)
    bend = ((up + down - 2 * centre) / step[:, 0]).abs()
    slope = (up - down) / (2 * step[:, 0])
    smooth = bend < 1e-3 * matrix.max()
    assert smooth.float().mean() > 0.7
    difference = ((gradient * direction).sum(dim=1) - slope).abs()
    assert (difference[smooth] < 1e-3 * matrix.max()).all()


@pytest.mark.parametrize("task", ["sentiment", "emotion", "nli"])
@pytest.mark.parametrize("name", ["semantic", "augmented", "zero-one"])
def test_every_preset_is_solved_exactly(task, name):
    generator = np.random.default_rng(3)
    cost = make_ground_cost(name, LabelSpace.preset(task))
    a, b = (random_rows(generator, 60, len(cost)) for _ in range(2))
    np.testing.assert_allclose(transport_cost(a, b, cost), program(a, b, cost.matrix.numpy())[0], atol=1e-9)


@settings(max_examples=40)
@given(seeds, st.integers(2, 40))
def test_on_a_line_the_cost_is_the_area_between_the_cumulative_distributions(seed, classes):
    generator = np.random.default_rng(seed)
    places = np.sort(generator.normal(size=classes))
    cost = check_ground_cost(distances(places[:, None]))
    a, b = random_rows(generator, 6, classes), random_rows(generator, 6, classes)
    area = (np.abs(np.cumsum((a - b).numpy(), axis=1))[:, :-1] * np.diff(places)).sum(axis=1)
    np.testing.assert_allclose(transport_cost(a, b, cost, solver="line"), area, atol=1e-12)


@settings(max_examples=40)
@given(seeds, st.integers(2, 40))
def test_one_hot_coordinates_give_the_square_root_of_two_times_total_variation(seed, classes):
    generator = np.random.default_rng(seed)
    cost = check_ground_cost(distances(np.eye(classes)))
    a, b = random_rows(generator, 6, classes), random_rows(generator, 6, classes)
    expected = np.sqrt(2) * (a - b).abs().sum(dim=1) / 2
    torch.testing.assert_close(transport_cost(a, b, cost), expected)


@settings(max_examples=30)
@given(seeds, st.integers(2, 8), st.sampled_from(EXACT))
def test_costs_form_a_metric_that_is_linear_in_the_ground_cost_and_jointly_convex(seed, classes, solver):
    generator = np.random.default_rng(seed)
    cost, matrix = prepared(generator, classes)
    solver = solver if cost.table is not None else "lp"
    a, b, c, d = (random_rows(generator, 5, classes) for _ in range(4))

    def w(p, q, over=cost):
        return transport_cost(p, q, over, solver=solver).numpy()

    slack = 1e-7 * matrix.max()
    np.testing.assert_allclose(w(a, b), w(b, a), atol=slack)
    assert (w(a, c) <= w(a, b) + w(b, c) + slack).all()
    np.testing.assert_allclose(w(a, b, check_ground_cost(3 * matrix)), 3 * w(a, b), atol=10 * slack)
    share = generator.random()
    mixed = w(share * a + (1 - share) * c, share * b + (1 - share) * d)
    assert (mixed <= share * w(a, b) + (1 - share) * w(c, d) + slack).all()
    assert (w(a, a) <= slack).all()
    apart = (a - b).abs().sum(dim=1).numpy() > 1e-9
    nearest = matrix[~np.eye(classes, dtype=bool)].min()
    assert (w(a, b)[apart] >= nearest * (a - b).abs().sum(dim=1).numpy()[apart] / 2 - slack).all()


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-2])
def test_labels_that_nearly_coincide_are_as_exact_as_others(gap):
    """Labels nearer than 1e-7 are merged; near 1e-6 there is no certificate, and the linear program takes over."""
    generator = np.random.default_rng(5)
    places = generator.normal(size=(6, 2))
    places[3] = places[2] + gap * np.array([1.0, 0.5])
    places[4] = places[2] - gap * np.array([0.3, 0.7])
    cost = check_ground_cost(distances(places), distinct=False)
    a, b = random_rows(generator, 200, 6), random_rows(generator, 200, 6)
    truth, _ = program(a, b, cost.matrix.numpy())
    assert (np.abs(transport_cost(a, b, cost).numpy() - truth) <= 1e-5 * truth + 1e-6 * cost.diameter).all()
    assert (cost.table is not None) or 1e-7 < gap < 1e-4


@pytest.mark.parametrize(
    "places",
    [
        np.argwhere(np.ones((2, 4))),
        np.argwhere(np.ones((2, 2, 2))),
        np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1),
        LABELS_OF_KNOT,
        10.0 ** np.random.default_rng(1).uniform(-6, 0, size=(7, 3)),
    ],
)
def test_the_certificate_passes_on_symmetric_and_wide_geometries(places):
    table = vertex_table(distances(np.asarray(places, dtype=float)))
    assert table is not None


def test_ten_labels_are_enumerated_when_asked_and_not_before():
    generator = np.random.default_rng(2)
    matrix = distances(generator.normal(size=(10, 3)))
    assert check_ground_cost(matrix).table is None
    cost = check_ground_cost(matrix, most_table_labels=10)
    a, b = random_rows(generator, 100, 10), random_rows(generator, 100, 10)
    np.testing.assert_allclose(transport_cost(a, b, cost, solver="table"), program(a, b, matrix)[0], atol=1e-9)


def test_a_cost_that_is_no_metric_may_move_shared_mass():
    generator = np.random.default_rng(4)
    squared = distances(np.arange(6.0)[:, None]) ** 2
    cost = check_ground_cost(squared, metric=False)
    a, b = random_rows(generator, 50, 6), random_rows(generator, 50, 6)
    np.testing.assert_allclose(transport_cost(a, b, cost, solver="lp"), program(a, b, squared)[0], atol=1e-9)


@settings(max_examples=10)
@given(seeds)
def test_the_cost_to_the_pooled_soft_labels_never_exceeds_the_weighted_costs(seed):
    generator = np.random.default_rng(seed)
    cost, _ = prepared(generator, 6)
    a, b = random_rows(generator, 8, 6), random_rows(generator, 24, 6).reshape(8, 3, 6)
    weights = torch.from_numpy(generator.dirichlet(np.ones(3), size=8))
    pooled = transport_cost(a, (weights[:, :, None] * b).sum(dim=1), cost)
    each = (weights * transport_cost(a, b, cost)).sum(dim=1)
    assert (pooled <= each + 1e-9).all()


def test_the_gradient_flows_to_both_sides():
    generator = np.random.default_rng(6)
    cost = check_ground_cost(distances(generator.normal(size=(5, 2))))
    a, b = (torch.from_numpy(generator.dirichlet(np.ones(5), size=4)).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda p, q: transport_cost(p, q, cost, check=False), (a, b), eps=1e-8, atol=1e-4)
