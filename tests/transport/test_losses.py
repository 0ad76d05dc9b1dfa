import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from knot_fed.errors import GroundCostError
from knot_fed.labels import LabelSpace
from knot_fed.losses import SinkhornDivergence
from knot_fed.transport import OTLoss, check_ground_cost, make_ground_cost, transport_cost
from knot_fed.transport.checks import Batch
from knot_fed.transport.solvers import cpu_kernel, gpu_kernel
from knot_fed.transport.solvers.exact import CHUNK, table_solution
from tests.conftest import ROOT
from tests.transport.problems import confident_rows, distances, prepared, random_rows

CPU = torch.device("cpu")


def problem(classes, *, rows=64, teachers=3, seed=0):
    generator = np.random.default_rng(seed)
    cost, _ = prepared(generator, classes)
    logits = torch.from_numpy(3 * generator.normal(size=(rows, classes))).float()
    soft_labels = random_rows(generator, rows * teachers, classes).reshape(rows, teachers, classes).float()
    weights = torch.from_numpy(generator.dirichlet(np.ones(teachers), size=rows)).float()
    return cost, logits, soft_labels, weights


def by_cost(cost, logits, soft_labels, weights, **options):
    """Compute the loss in float64 by `transport_cost`, and its gradient by autograd."""
    leaf = logits.double().requires_grad_()
    costs = transport_cost(torch.softmax(leaf, dim=1), soft_labels.double(), cost, **options)
    loss = (weights.double() * costs).sum(dim=1)
    loss.mean().backward()
    return loss.detach(), leaf.grad


@pytest.mark.parametrize("classes", range(2, 9))
@pytest.mark.parametrize("seed", range(5))
def test_the_loss_and_its_gradient_are_the_weighted_costs_of_all_teachers(classes, seed):
    cost, logits, soft_labels, weights = problem(classes, seed=seed)
    leaf = logits.clone().requires_grad_()
    loss = OTLoss(cost)(leaf, soft_labels, weights)
    loss.backward()
    rows, gradient = by_cost(cost, logits, soft_labels, weights, solver="lp")
    assert abs(loss.item() - float(rows.mean())) <= 1e-5 * float(rows.mean()) + 1e-6 * cost.diameter
    each = OTLoss(cost, reduction="none")(logits, soft_labels, weights)
    torch.testing.assert_close(each.double(), rows, rtol=1e-5, atol=3e-6 * cost.diameter)
    ties = 64 * 3e-5 * cost.diameter  # where two potentials are as good as each other, either is a gradient
    assert (leaf.grad.double() - gradient).abs().sum() <= 0.2 * gradient.abs().sum() + ties


@pytest.mark.parametrize("solver", ["table", "lp", "sinkhorn"])
def test_the_gradient_is_that_of_central_differences(solver):
    generator = np.random.default_rng(1)
    cost = check_ground_cost(distances(generator.normal(size=(7, 3))))
    logits = torch.from_numpy(generator.normal(size=(16, 7))).float().requires_grad_()
    soft_labels = confident_rows(generator, 16, 7).float()
    OTLoss(cost, solver=solver)(logits, soft_labels).backward()
    direction = torch.from_numpy(generator.normal(size=(16, 7)))
    step = 1e-4
    up, down = (
        transport_cost(torch.softmax(logits.detach().double() + sign * step * direction, 1), soft_labels.double(), cost)
        for sign in (1, -1)
    )
    slope = (up - down).sum() / (2 * step) / 16
    assert abs(float((logits.grad * direction).sum()) - float(slope)) < (2e-2 if solver == "sinkhorn" else 2e-3)


@pytest.mark.parametrize("kernel", [cpu_kernel, gpu_kernel], ids=["numba", "triton interpreter"])
@pytest.mark.parametrize(
    ("classes", "rows", "teachers"), [(2, 17, 3), (3, 129, 1), (5, 300, 4), (7, 128, 2), (8, 64, 5)]
)
def test_fused_kernels_agree_with_plain_torch(kernel, classes, rows, teachers):
    cost, logits, soft_labels, weights = problem(classes, rows=rows, teachers=teachers, seed=classes)
    on_device = cost.to(CPU, torch.float32)
    values, gradient = kernel.fused_table_loss(Batch(logits, soft_labels, weights), on_device)
    a = torch.softmax(logits, dim=1)
    costs, potentials = table_solution((a[:, None] - soft_labels).reshape(-1, classes), on_device)
    expected = (weights * costs.view(rows, teachers)).sum(dim=1)
    slope = torch.bmm(weights[:, None], potentials.view(rows, teachers, classes))[:, 0]
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6 * cost.diameter)
    same = (gradient - a * (slope - (a * slope).sum(dim=1, keepdim=True))).abs().amax(dim=1) < 1e-5 * cost.diameter
    assert same.float().mean() > 0.8  # ties may fall either way


@pytest.mark.parametrize("capability", [80, 90])
def test_the_triton_kernel_compiles_for_a_gpu_that_is_not_there(capability, tmp_path):
    """In a process of its own, without Triton's interpreter and with the type checks of these tests."""
    pytest.importorskip("triton.backends.nvidia")
    script = ROOT / "tests/transport/compile_kernel.py"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", script, str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(classes) for classes in range(2, 9)]


def on_both_devices(loss, logits, soft_labels, weights):
    """Return the values and the gradient of a loss on the CPU, then on a GPU."""
    found = []
    for device in ("cpu", "cuda"):
        leaf = logits.to(device).requires_grad_()
        values = loss(leaf, soft_labels.to(device), weights.to(device))
        values.sum().backward()
        found.append((values.detach().cpu(), leaf.grad.cpu()))
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("classes", range(2, 9))
@pytest.mark.parametrize(("rows", "teachers"), [(1, 1), (129, 2), (1, 3), (333, 5), (128, 8), (4097, 4)])
def test_the_compiled_triton_kernel_agrees_with_the_cpu(classes, rows, teachers):
    cost, logits, soft_labels, weights = problem(classes, rows=rows, teachers=teachers)
    (values, gradient), (there, slope) = on_both_devices(OTLoss(cost, reduction="none"), logits, soft_labels, weights)
    torch.testing.assert_close(there, values, rtol=1e-5, atol=1e-6 * cost.diameter)
    same = (slope - gradient).abs().amax(dim=1) < 1e-5 * cost.diameter
    assert same.float().mean() > (0.8 if rows > 1 else -1)  # ties may fall either way


@pytest.mark.gpu
@pytest.mark.parametrize(("classes", "teachers"), [(5, 4), (28, 4), (64, 2)])
def test_the_matrix_sinkhorn_on_a_gpu_agrees_with_the_cpu(classes, teachers):
    cost, logits, soft_labels, weights = problem(classes, rows=65, teachers=teachers)
    loss = OTLoss(cost, solver="sinkhorn", reduction="none")
    (values, gradient), (there, slope) = on_both_devices(loss, logits, soft_labels, weights)
    torch.testing.assert_close(there, values, rtol=5e-3, atol=1e-4 * cost.diameter)
    assert (slope - gradient).norm() < 0.05 * gradient.norm()


@pytest.mark.gpu
def test_the_sinkhorn_divergence_on_a_gpu_agrees_with_the_cpu():
    cost, logits, soft_labels, weights = problem(7, rows=65)
    loss = SinkhornDivergence(cost, entropic_epsilon=0.1)
    there = loss(logits.cuda(), soft_labels.cuda(), weights.cuda())
    torch.testing.assert_close(there.cpu(), loss(logits, soft_labels, weights), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("solver", ["auto", "sinkhorn"])
def test_logits_of_every_type_are_read_in_single_precision_and_get_their_gradient(dtype, solver):
    cost, logits, soft_labels, weights = problem(5)
    rounded = logits.to(dtype).requires_grad_()
    loss = OTLoss(cost, solver=solver)(rounded, soft_labels, weights)
    loss.backward()
    assert loss.dtype == torch.float32
    assert rounded.grad.dtype == dtype
    expected = OTLoss(cost, solver=solver)(rounded.detach().float(), soft_labels, weights)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("solver", ["line", "table", "sinkhorn"])
def test_autocast_does_not_reach_into_the_loss(solver):
    cost = make_ground_cost("semantic", LabelSpace.preset("sentiment"))
    _, logits, soft_labels, weights = problem(5)
    loss = OTLoss(cost, solver=solver)
    loss.fused = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, soft_labels, weights)
    torch.testing.assert_close(inside, loss(logits, soft_labels, weights))


@pytest.mark.parametrize("classes", [5, 8, 12])
@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
def test_saturated_logits_give_finite_losses_and_gradients(classes, scale):
    cost, logits, soft_labels, weights = problem(classes)
    saturated = (scale * torch.sign(logits)).requires_grad_()
    loss = OTLoss(cost)(saturated, soft_labels, weights)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(saturated.grad).all()


@pytest.mark.parametrize("classes", [5, 12])
def test_a_diverged_student_shows(classes):
    cost, logits, soft_labels, weights = problem(classes)
    logits[3] = float("nan")
    values = OTLoss(cost, solver="auto" if classes == 5 else "sinkhorn", reduction="none")(logits, soft_labels, weights)
    assert torch.isnan(values).nonzero().tolist() == [[3]]


def test_weights_may_be_one_for_each_teacher_or_left_out():
    cost, logits, soft_labels, _ = problem(5)
    loss = OTLoss(cost)
    shares = torch.tensor([0.5, 0.3, 0.2])
    torch.testing.assert_close(loss(logits, soft_labels, shares), loss(logits, soft_labels, shares.expand(64, 3)))
    torch.testing.assert_close(loss(logits, soft_labels), loss(logits, soft_labels, torch.full((3,), 1 / 3)))
    torch.testing.assert_close(loss(logits, soft_labels[:, 0]), loss(logits, soft_labels[:, :1], torch.ones(1)))


def test_the_solver_is_told_and_checked_when_the_loss_is_built():
    cost = make_ground_cost("augmented", LabelSpace.preset("sentiment"))
    assert "solver=table, fused" in repr(OTLoss(cost))
    assert "fused" not in repr(OTLoss(cost, solver="sinkhorn"))
    with pytest.raises(GroundCostError, match="does not apply"):
        OTLoss(cost, solver="star")


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation creates."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().size() // tensor.element_size())
        return result


@pytest.mark.parametrize("classes", [5, 8])
@pytest.mark.parametrize("fused", [True, False])
def test_no_tensor_of_the_exact_route_is_larger_than_its_input_or_one_chunk(classes, fused):
    for rows in (2_000, 40_000):
        cost, logits, soft_labels, weights = problem(classes, rows=rows)
        loss = OTLoss(cost)
        loss.fused = fused
        with LargestTensor() as largest:
            loss(logits.requires_grad_(), soft_labels, weights).backward()
        assert largest.entries <= max(soft_labels.numel(), CHUNK)
