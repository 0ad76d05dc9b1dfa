import math
import tomllib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr

from knot_fed.config import LOSSES, RunConfig, flattened
from knot_fed.errors import ConfigError
from knot_fed.losses import ForwardKL, ReverseKL, SinkhornDivergence, SymmetrisedKL, loss_content, make_loss
from knot_fed.transport import OTLoss
from tests.conftest import ROOT

seeds = st.integers(0, 2**32 - 1)
names = st.sampled_from(list(LOSSES))
few = settings(max_examples=60)


@pytest.fixture(scope="session")
def losses():
    """All losses of a sentiment run by name."""
    defaults = flattened(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"])
    return {name: make_loss(RunConfig.from_mapping(defaults | {"distill.loss": name})) for name in LOSSES}


def problem(seed, rows=4, teachers=3, classes=5):
    """Draw logits, soft labels without tiny entries, and weights, in double precision."""
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(2 * generator.normal(size=(rows, classes)))
    soft_labels = torch.from_numpy(0.01 + 0.95 * generator.dirichlet(np.ones(classes), size=(rows, teachers)))
    weights = torch.from_numpy(generator.dirichlet(np.ones(teachers), size=rows))
    return logits, soft_labels, weights


@given(seeds, names)
@few
def test_a_loss_is_never_negative_and_zero_where_the_student_says_what_its_teachers_say(losses, seed, name):
    logits, soft_labels, weights = problem(seed)
    same = torch.softmax(logits, dim=1)[:, None].expand(soft_labels.shape)
    assert float(losses[name](logits, same, weights)) == pytest.approx(0, abs=1e-6)
    assert float(losses[name](logits, soft_labels, weights)) > 1e-4


@given(seeds, names)
@few
def test_the_gradient_is_that_of_central_differences(losses, seed, name):
    logits, soft_labels, weights = problem(seed)
    leaf = logits.clone().requires_grad_()
    losses[name](leaf, soft_labels, weights).backward()
    direction = torch.from_numpy(np.random.default_rng(seed).normal(size=logits.shape))
    single = isinstance(losses[name], OTLoss)  # read in float32, and with kinks
    step = 1e-2 if single else 1e-4
    up, down = (float(losses[name](logits + sign * step * direction, soft_labels, weights)) for sign in (1, -1))
    slope = float((leaf.grad * direction).sum())
    assert (up - down) / (2 * step) == pytest.approx(slope, abs=3e-2 if single else 1e-4)


@given(seeds, names)
@few
def test_a_loss_ignores_the_order_of_teachers_and_of_examples(losses, seed, name):
    logits, soft_labels, weights = problem(seed)
    teachers, rows = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    value = float(losses[name](logits, soft_labels, weights))
    assert float(losses[name](logits, soft_labels[:, teachers], weights[:, teachers])) == pytest.approx(value, abs=1e-6)
    assert float(losses[name](logits[rows], soft_labels[rows], weights[rows])) == pytest.approx(value, abs=1e-6)


@given(seeds, names)
@few
def test_a_loss_is_linear_in_the_scale_of_each_row_of_weights(losses, seed, name):
    logits, soft_labels, weights = problem(seed)
    scales = torch.from_numpy(np.random.default_rng(seed).uniform(0, 3, size=len(logits)))
    each = [float(losses[name](logits[[row]], soft_labels[[row]], weights[[row]])) for row in range(len(logits))]
    scaled = float(losses[name](logits, soft_labels, scales[:, None] * weights))
    assert scaled == pytest.approx(float(np.mean(scales.numpy() * np.array(each))), rel=1e-4, abs=1e-6)


@given(seeds)
@few
def test_kl_divergences_are_those_of_scipy(seed):
    logits, soft_labels, weights = problem(seed)
    a = torch.softmax(logits, dim=1)[:, None].numpy()
    q = soft_labels.numpy() / soft_labels.numpy().sum(axis=2, keepdims=True)
    forward, backward = rel_entr(q, a).sum(axis=2), rel_entr(a, q).sum(axis=2)
    for loss, expected in (
        (ForwardKL(), forward),
        (ReverseKL(), backward),
        (SymmetrisedKL(), (forward + backward) / 2),
    ):
        value = float(loss(logits, torch.from_numpy(q), weights))
        assert value == pytest.approx(float((weights.numpy() * expected).sum(axis=1).mean()), abs=1e-9)


@given(seeds, st.floats(0, 300))
@few
def test_jensen_shannon_stays_within_ln_2_and_reaches_it_for_distributions_far_apart(losses, seed, scale):
    logits, soft_labels, weights = problem(seed)
    loss = losses["jensen-shannon"]
    assert 0 <= float(loss(scale * logits, soft_labels, weights)) <= math.log(2) + 1e-9
    apart = torch.tensor([[1e4, 0.0]]), torch.tensor([[[0.0, 1.0]]]), torch.ones(1, 1)
    assert float(loss(*apart)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_hot_teachers_and_saturated_students_give_finite_losses_and_gradients(losses, name, dtype):
    logits = (1e4 * torch.eye(5, dtype=dtype)[:3]).requires_grad_()
    soft_labels = torch.eye(5)[[0, 3, 4]][:, None]
    value = losses[name](logits, soft_labels, torch.ones(3, 1))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@given(seeds)
@few
def test_both_objectives_give_the_forward_kl_the_same_gradient(seed):
    logits, soft_labels, weights = problem(seed)
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ForwardKL()(one, soft_labels, weights).backward()
    ForwardKL()(other, (weights[:, :, None] * soft_labels).sum(dim=1)[:, None], torch.ones(len(logits), 1)).backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_the_sinkhorn_divergence_reads_the_ground_cost(losses):
    logits, near, far = torch.tensor([[9.0, 0, 0, 0, 0]]), torch.eye(5)[None, [1]], torch.eye(5)[None, [4]]
    assert isinstance(losses["sinkhorn-divergence"], SinkhornDivergence)
    one = torch.ones(1, 1)
    assert float(losses["sinkhorn-divergence"](logits, near, one)) < float(
        losses["sinkhorn-divergence"](logits, far, one)
    )


def total_variation(logits, soft_labels, weights):
    """A plug-in loss, found by its name in this module."""
    distances = (torch.softmax(logits, dim=1)[:, None] - soft_labels).abs().sum(dim=2) / 2
    return (weights * distances).sum(dim=1).mean()


NOT_A_FUNCTION = 3


def test_a_users_own_function_is_the_loss(run_config):
    loss = make_loss(run_config(**{"distill.loss": "tests.test_losses:total_variation"}))
    logits, soft_labels, weights = problem(0)
    assert float(loss(logits, soft_labels, weights)) == float(total_variation(logits, soft_labels, weights))


def test_an_unknown_loss_is_refused_when_the_configuration_is_read(run_config):
    with pytest.raises(
        ConfigError, match=r"distill\.loss = 'loudest': use ot, .* or your own package\.module:function"
    ):
        run_config(**{"distill.loss": "loudest"})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere.at.all:loss", "cannot be imported"),
        ("tests.test_losses:missing", "cannot be imported"),
        ("tests.test_losses:NOT_A_FUNCTION", "is of type int, not a function"),
    ],
)
def test_a_users_own_function_that_is_none_is_refused_with_the_known_names(run_config, name, reason):
    with pytest.raises(ConfigError, match=f"{reason}.*use ot, sinkhorn-divergence"):
        make_loss(run_config(**{"distill.loss": name}))


def test_the_content_of_a_loss_changes_with_its_source_or_its_matrix_and_with_nothing_else(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source, matrix = tmp_path / "lost.py", tmp_path / "costs.csv"
    source.write_text("def loss(logits, soft_labels, weights):\n    return logits.sum()\n")
    matrix.write_text("0,1,2\n1,0,1\n2,1,0\n")

    def found(**keys):
        named = {key.replace("_", "."): value for key, value in keys.items()}
        return loss_content(RunConfig.from_mapping({"task": "nli", "transport.cost": str(matrix), **named}))

    own, read = found(distill_loss="lost:loss"), found(distill_loss="ot")
    assert found(distill_loss="kl") == []
    assert (own, read) == (found(distill_loss="lost:loss", seed=2), found(distill_loss="sinkhorn-divergence"))
    source.write_text(source.read_text() + "# changed\n")
    matrix.write_text("0,1,3\n1,0,2\n3,2,0\n")
    assert own != found(distill_loss="lost:loss")
    assert read != found(distill_loss="ot")
