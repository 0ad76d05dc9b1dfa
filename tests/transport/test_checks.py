import subprocess
import sys

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from knot_fed.losses import ForwardKL, JensenShannon, MeanSquaredError, ReverseKL, SinkhornDivergence, SymmetrisedKL
from knot_fed.transport import OTLoss, check_ground_cost, sinkhorn_divergence, transport_cost
from knot_fed.transport.checks import Batch
from knot_fed.transport.solvers import cpu_kernel, cpu_sinkhorn, gpu_kernel
from knot_fed.transport.solvers.sinkhorn import sinkhorn
from tests.transport.problems import distances, program

FEW = check_ground_cost(distances(np.random.default_rng(0).normal(size=(5, 2))))
MANY = check_ground_cost(distances(np.random.default_rng(1).normal(size=(12, 3))))
LINE = check_ground_cost(distances(np.arange(5.0)[:, None]))
LOSSES = {
    "fused": lambda cost: OTLoss(cost),
    "lp": lambda cost: OTLoss(cost, solver="lp"),
    "sinkhorn": lambda cost: OTLoss(cost, solver="sinkhorn"),
    "divergence": lambda cost: SinkhornDivergence(cost, entropic_epsilon=0.1),
    "kl": lambda _: ForwardKL(),
    "reverse-kl": lambda _: ReverseKL(),
    "entropy": lambda _: SymmetrisedKL(),
    "jensen-shannon": lambda _: JensenShannon(),
    "mse": lambda _: MeanSquaredError(),
}
losses = pytest.mark.parametrize("loss", LOSSES)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def as_for_users():
    """Remove the type checks of the tests, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def flat(*shape):
    return torch.full(shape, 1 / shape[-1])


LABELS = torch.zeros(8, dtype=torch.long)
WRONG = {
    "fewer rows of soft labels": (flat(32, 5), flat(24, 5), None, ValueError, r"soft_labels of shape \(32, 5\) or"),
    "fewer rows of teachers": (flat(32, 5), flat(24, 4, 5), None, ValueError, r"found \(24, 4, 5\)"),
    "two million rows, one soft label": (flat(2_000_000, 5), flat(1, 5), None, ValueError, r"found \(1, 5\)"),
    "one row, many soft labels": (
        flat(1, 5),
        flat(8, 5),
        None,
        ValueError,
        r"logits of shape \(1, 5\), found \(8, 5\)",
    ),
    "one row of teachers": (flat(8, 5), flat(1, 3, 5), None, ValueError, r"found \(1, 3, 5\)"),
    "no row of soft labels": (flat(8, 5), flat(0, 5), None, ValueError, r"found \(0, 5\)"),
    "no row of logits": (flat(0, 5), flat(8, 5), None, ValueError, r"logits of shape \(0, 5\)"),
    "fewer labels on one side": (flat(8, 5), flat(8, 4), None, ValueError, r"found \(8, 4\)"),
    "one label on one side": (flat(8, 5), flat(8, 3, 1), None, ValueError, r"found \(8, 3, 1\)"),
    "teachers first": (flat(8, 5), flat(3, 8, 5), None, ValueError, r"found \(3, 8, 5\)"),
    "labels in the middle": (flat(8, 5), flat(8, 5, 3), None, ValueError, r"found \(8, 5, 3\)"),
    "no teacher": (flat(8, 5), flat(8, 0, 5), None, ValueError, "K >= 1"),
    "logits of one dimension": (flat(5), flat(5), None, ValueError, r"logits of shape \(B, .\).*found \(5,\)"),
    "logits of three dimensions": (flat(8, 1, 5), flat(8, 1, 5), None, ValueError, r"found \(8, 1, 5\)"),
    "a number for logits": (torch.tensor(1.0), flat(8, 5), None, ValueError, r"found \(\)"),
    "soft labels of one dimension": (flat(8, 5), flat(8), None, ValueError, r"found \(8,\)"),
    "soft labels of four dimensions": (flat(8, 5), flat(8, 3, 1, 5), None, ValueError, r"found \(8, 3, 1, 5\)"),
    "more weights": (flat(8, 5), flat(8, 3, 5), flat(4), ValueError, r"weights of shape \(3,\) or \(8, 3\).*\(4,\)"),
    "one weight": (flat(8, 5), flat(8, 3, 5), flat(1), ValueError, r"found \(1,\)"),
    "one row of weights": (flat(8, 5), flat(8, 3, 5), flat(1, 3), ValueError, r"found \(1, 3\)"),
    "weights of examples": (flat(8, 5), flat(8, 5), flat(8), ValueError, r"weights of shape \(1,\) or \(8, 1\)"),
    "weights transposed": (flat(8, 5), flat(8, 3, 5), flat(3, 8), ValueError, r"found \(3, 8\)"),
    "weights of three dimensions": (flat(8, 5), flat(8, 3, 5), flat(8, 3, 1), ValueError, r"found \(8, 3, 1\)"),
    "a number for weights": (flat(8, 5), flat(8, 1, 5), torch.tensor(1.0), ValueError, r"found \(\)"),
    "fewer hard labels": (flat(9, 5), LABELS, None, ValueError, r"hard labels of shape \(9,\).*found \(8,\)"),
    "one hard label": (flat(8, 5), LABELS[:1], None, ValueError, r"found \(1,\)"),
    "a hard label beyond": (flat(8, 5), LABELS + 5, None, IndexError, "Target 5 is out of bounds for 5 labels"),
    "a hard label below": (flat(8, 5), LABELS - 100, None, IndexError, "Target -100 is out of bounds"),
    "hard labels of two dimensions": (flat(8, 5), LABELS[:, None], None, TypeError, "soft_labels.*found torch.int64"),
    "hard labels as numbers": (flat(8, 5), LABELS.float(), None, ValueError, r"found \(8,\)"),
    "integer logits": (flat(8, 5).long(), flat(8, 5), None, TypeError, "logits of float16.*found torch.int64"),
    "complex logits": (flat(8, 5).cfloat(), flat(8, 5), None, TypeError, "found torch.complex64"),
    "logits of eight bits": (flat(8, 5).to(torch.float8_e5m2), flat(8, 5), None, TypeError, "found torch.float8"),
    "truth values": (flat(8, 5), flat(8, 5) > 0, None, TypeError, "soft_labels.*found torch.bool"),
    "integer weights": (flat(8, 5), flat(8, 3, 5), torch.ones(3).long(), TypeError, "weights.*found torch.int64"),
    "an array": (flat(8, 5), flat(8, 5).numpy(), None, TypeError, "soft_labels must be Tensor, not ndarray"),
    "a list": ([[0.0] * 5], flat(1, 5), None, TypeError, "logits must be Tensor, not list"),
    "a list of weights": (flat(8, 5), flat(8, 2, 5), [0.5, 0.5], TypeError, "weights must be Tensor, not list"),
    "soft labels elsewhere": (flat(8, 5), flat(8, 5).to("meta"), None, ValueError, "device of logits, cpu, found meta"),
    "hard labels elsewhere": (flat(8, 5), LABELS.to("meta"), None, ValueError, "device of logits, cpu, found meta"),
    "weights elsewhere": (flat(8, 5), flat(8, 2, 5), flat(2).to("meta"), ValueError, "cpu, found meta"),
}


@losses
@pytest.mark.parametrize(("logits", "soft_labels", "weights", "error", "said"), WRONG.values(), ids=WRONG)
def test_arguments_that_do_not_fit_are_refused_with_what_was_expected_and_found(
    loss, logits, soft_labels, weights, error, said
):
    with pytest.raises(error, match=said):
        LOSSES[loss](FEW)(logits, soft_labels, weights)


@pytest.mark.parametrize("loss", ["fused", "lp", "sinkhorn", "divergence"])
def test_logits_of_other_labels_than_the_ground_cost_are_refused(loss):
    for classes in (1, 4, 6):
        with pytest.raises(ValueError, match=rf"\(B, 5\) for a ground cost of 5 labels, found \(8, {classes}\)"):
            LOSSES[loss](FEW)(flat(8, classes), flat(8, classes))


PAIRS = [
    (flat(8, 5), flat(7, 5), ValueError),
    (flat(8, 5), flat(1, 5), ValueError),
    (flat(1, 5), flat(8, 5), ValueError),
    (flat(8, 5), flat(1, 2, 5), ValueError),
    (flat(8, 5), flat(8, 0, 5), ValueError),
    (flat(8, 5), flat(8, 4), ValueError),
    (flat(8, 4), flat(8, 4), ValueError),
    (flat(5), flat(5), ValueError),
    (flat(8, 2, 5), flat(8, 2, 5), ValueError),
    (flat(8, 5), flat(8, 5).to("meta"), ValueError),
    (flat(8, 5), LABELS, TypeError),
    (flat(8, 5).int(), flat(8, 5), TypeError),
    (flat(8, 5).numpy(), flat(8, 5), TypeError),
]


@pytest.mark.parametrize("entry", [transport_cost, sinkhorn_divergence])
@pytest.mark.parametrize(("a", "b", "error"), PAIRS)
def test_pairs_of_distributions_that_do_not_fit_are_refused(entry, a, b, error):
    with pytest.raises(error, match=r"Expected [ab] (of|on)|a must be Tensor"):
        entry(a, b, FEW)


def test_a_bare_matrix_and_an_unknown_reduction_are_refused_when_a_loss_is_built():
    matrix = FEW.matrix
    for build in (OTLoss, lambda cost: SinkhornDivergence(cost, entropic_epsilon=0.1)):
        with pytest.raises(TypeError, match=r"must be a GroundCost, not Tensor; .* check_ground_cost\(matrix\)"):
            build(matrix)
    with pytest.raises(TypeError, match="must be a GroundCost"):
        sinkhorn_divergence(flat(2, 5), flat(2, 5), matrix)
    with pytest.raises(ValueError, match="'sum' is not a valid value for reduction"):
        OTLoss(FEW, reduction="sum")


@pytest.mark.parametrize("kernel", [cpu_kernel, gpu_kernel], ids=["numba", "triton interpreter"])
def test_no_kernel_reads_a_table_of_other_labels_or_out_of_merged_ones(kernel):
    merged = check_ground_cost(distances(np.array([[0.0, 0], [0, 0], [1, 0], [0, 1]])), distinct=False)
    for cost, classes in ((FEW, 4), (FEW, 6), (merged, 4), (merged, 3), (MANY, 12)):
        with pytest.raises(ValueError, match=f"Expected a table of {2**classes} patterns of {classes} labels"):
            kernel.fused_table_loss(
                Batch(flat(8, classes), flat(8, classes)), cost.to(torch.device("cpu"), torch.float32)
            )


@pytest.mark.parametrize("solve", [sinkhorn, cpu_sinkhorn.sinkhorn], ids=["torch", "numba"])
def test_no_solver_reads_marginals_of_other_labels_rows_or_types(solve):
    options = {"entropic_epsilon": 0.1, "marginal_error": 0.01, "metric": True}
    for a, b in [
        (flat(8, 5), flat(7, 5)),
        (flat(8, 6), flat(8, 6)),
        (flat(8, 5), flat(8, 1, 5)),
        (flat(5), flat(5)),
        (flat(8, 5), flat(8, 5).double()),
        (flat(8, 5).half(), flat(8, 5).half()),
        (flat(8, 5).to("meta"), flat(8, 5).to("meta")),
    ]:
        with pytest.raises(ValueError, match="Expected marginals of one shape, type and device"):
            solve(a, b, FEW.matrix, **options)


@losses
@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_batch_has_the_loss_zero_and_a_gradient(loss, shape, dtype):
    bias = torch.zeros(5, dtype=dtype, requires_grad=True)
    value = LOSSES[loss](FEW)(torch.zeros(0, 5, dtype=dtype) + bias, flat(*shape))
    value.backward()
    assert value.shape == ()
    assert float(value.detach()) == 0
    assert bias.grad.tolist() == [0.0] * 5


def test_an_empty_batch_has_no_costs():
    for solver in ("auto", "lp", "sinkhorn"):
        rows = torch.zeros(0, 5, requires_grad=True)
        report = transport_cost(rows, flat(0, 2, 5), FEW, solver=solver, report=True)
        assert report.cost.shape == report.lower.shape == report.upper.shape == (0, 2)
        report.cost.sum().backward()
        assert rows.grad.shape == (0, 5)
    assert sinkhorn_divergence(flat(0, 5), flat(0, 2, 5), FEW).shape == (0, 2)
    assert OTLoss(FEW, reduction="none")(flat(0, 5), torch.zeros(0, dtype=torch.long)).shape == (0,)
    values, gradient = gpu_kernel.fused_table_loss(
        Batch(flat(0, 5), flat(0, 5)), FEW.to(torch.device("cpu"), torch.float32)
    )
    assert (values.shape, gradient.shape) == ((0,), (0, 5))


@losses
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_hard_labels_are_one_teacher_of_one_hot_rows(loss, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator)
    labels = torch.randint(5, (8,), generator=generator)
    value = LOSSES[loss](FEW)(logits, labels.to(dtype))
    torch.testing.assert_close(value, LOSSES[loss](FEW)(logits, torch.eye(5)[labels]))
    torch.testing.assert_close(value, LOSSES[loss](FEW)(logits, labels, torch.ones(1)))
    if loss == "kl":
        torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits, labels))
    if loss in ("fused", "lp"):
        exact = (torch.softmax(logits, dim=1) * FEW.matrix[labels]).sum(dim=1).mean()
        torch.testing.assert_close(value, exact.float())


@losses
@pytest.mark.parametrize("ground_cost", [FEW, MANY], ids=["5 labels", "12 labels"])
def test_strided_views_give_what_copies_give(loss, ground_cost):
    classes = len(ground_cost)
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(classes, 16, generator=generator).T.requires_grad_()
    teachers = torch.softmax(torch.randn(classes, 3, 16, generator=generator), dim=0).permute(2, 1, 0)
    weights = torch.rand(3, 16, generator=generator).T
    copies = [part.detach().contiguous() for part in (base, teachers, weights)]
    copies[0].requires_grad_()
    values = []
    for logits, *rest in ((base, teachers, weights), copies):
        values.append(LOSSES[loss](ground_cost)(logits, *rest))
        values[-1].backward()
    assert not base.is_contiguous()
    torch.testing.assert_close(*values)
    torch.testing.assert_close(base.grad, copies[0].grad, rtol=1e-4, atol=1e-5)
    every_second = LOSSES[loss](ground_cost)(copies[0][::2], copies[1][::2], copies[2][::2])
    torch.testing.assert_close(every_second, LOSSES[loss](ground_cost)(*(part[::2].clone() for part in copies)))


@pytest.mark.parametrize("solver", ["lp", "sinkhorn"])
def test_transposed_distributions_cost_what_copies_cost(solver):
    a, b = (torch.softmax(torch.randn(12, 40, generator=torch.Generator().manual_seed(i)), 0).T for i in (1, 2))
    costs = transport_cost(a, b, MANY, solver=solver)
    torch.testing.assert_close(costs, transport_cost(a.contiguous(), b.contiguous(), MANY, solver=solver))


@losses
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_no_loss(loss, dtype):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(8, 5, generator=generator).to(dtype)
    teachers = torch.softmax(torch.randn(8, 3, 5, generator=generator), dim=2)
    built = LOSSES[loss](FEW)
    expected = built(logits.float(), teachers)
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(built(logits, teachers), expected)
        a = torch.softmax(logits.float(), dim=1)
        costs = transport_cost(a, teachers, LINE)
    torch.testing.assert_close(costs, transport_cost(a, teachers, LINE))


@pytest.mark.parametrize("entry", [transport_cost, sinkhorn_divergence])
def test_pairs_of_two_types_are_computed_in_the_wider_one(entry):
    for one, other in ((torch.float32, torch.float64), (torch.float64, torch.float16), (torch.bfloat16, torch.float32)):
        wider = torch.float64 if torch.float64 in (one, other) else torch.float32
        assert entry(flat(3, 5).to(one), flat(3, 5).to(other), FEW).dtype == wider


class NoOperation(TorchDispatchMode):
    """Refuses every torch operation, and so anything that could synchronise a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called")


def test_checks_run_no_operation_and_read_no_value_of_a_device():
    arguments = flat(8, 5), flat(8, 3, 5), flat(8, 3)
    with NoOperation():
        Batch(*arguments, classes=5)
    meta = Batch(flat(8, 5).to("meta"), LABELS.to("meta"))  # reading a value of this device is an error
    assert meta.soft_labels.shape == (8, 1, 5)


@pytest.mark.gpu
def test_no_check_waits_for_a_gpu():
    logits, teachers, labels = flat(8, 5).cuda(), flat(8, 3, 5).cuda(), LABELS.cuda()
    loss = OTLoss(FEW)
    loss(logits, teachers)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(logits, teachers, flat(3).cuda())
        loss(logits, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@settings(max_examples=300)
@given(
    seeds, st.sampled_from([5, 12]), st.sampled_from(["auto", "sinkhorn"]),
    st.lists(st.integers(0, 6), max_size=4).map(tuple), st.lists(st.integers(0, 6), max_size=4).map(tuple),
    st.none() | st.lists(st.integers(0, 6), max_size=3).map(tuple), st.booleans(),
)  # fmt: skip
def test_any_shapes_give_the_answer_of_the_linear_program_or_are_refused(
    seed, classes, solver, logits_shape, targets_shape, weights_shape, fitting
):
    """Half of the shapes fit the labels by construction; otherwise hardly any would."""
    ground_cost = {5: FEW, 12: MANY}[classes]
    if fitting:
        logits_shape = (*logits_shape[:1], classes)
        targets_shape = (*logits_shape[:1], *targets_shape[1:2], classes)
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(np.asarray(3 * generator.normal(size=logits_shape))).float()
    targets = torch.from_numpy(np.asarray(generator.gamma(0.5, size=targets_shape))).float() + 1e-6
    targets = targets / targets.sum(dim=-1, keepdim=True) if targets.ndim else targets
    weights = None if weights_shape is None else torch.from_numpy(np.asarray(generator.random(weights_shape))).float()
    fits = logits.ndim == 2 and logits.shape[1] == classes and targets.ndim in (2, 3)
    teachers = targets.shape[1] if targets.ndim == 3 else 1
    fits = fits and targets.shape in ((len(logits), classes), (len(logits), teachers, classes)) and teachers > 0
    fits = fits and weights_shape in (None, (teachers,), (len(logits), teachers))
    loss = OTLoss(ground_cost, solver=solver, reduction="none")
    if not fits:
        with pytest.raises(ValueError, match="Expected"):
            loss(logits, targets, weights)
        return
    values = loss(logits.requires_grad_(), targets, weights)
    values.sum().backward()
    assert values.shape == (len(logits),)
    assert torch.isfinite(logits.grad).all()
    a = torch.softmax(logits.detach().double(), dim=1)[:, None].expand(-1, teachers, -1).reshape(-1, classes)
    costs, _ = program(a, targets.double().reshape(-1, classes), ground_cost.matrix.numpy())
    shares = torch.full((teachers,), 1 / teachers) if weights is None else weights
    expected = (shares.double() * torch.from_numpy(costs).view(len(logits), teachers)).sum(dim=1)
    rtol, atol = (1e-5, 1e-5) if solver == "auto" else (1e-2, 1e-3)
    torch.testing.assert_close(values.detach().double(), expected, rtol=rtol, atol=atol * ground_cost.diameter)


def modules_after(code):
    """Return the third-party packages that this code loads in a fresh Python, besides those that torch loads."""
    script = f"""
import sys, torch
before = set(sys.modules)
{code}
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names)
"""
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_the_transport_package_loads_nothing_heavy_beside_torch():
    assert modules_after("import knot_fed.transport") <= {"knot_fed", "jaxtyping", "numpy"}


def test_pot_is_not_loaded_up_to_eight_labels():
    step = """
from knot_fed.labels import LabelSpace
from knot_fed.transport import OTLoss, make_ground_cost
loss = OTLoss(make_ground_cost("augmented", LabelSpace.preset("sentiment")))
loss(torch.zeros(2, 5, requires_grad=True), torch.full((2, 5), 0.2)).backward()
"""
    loaded = modules_after(step)
    assert "numba" in loaded
    assert not loaded & {"ot", "sklearn", "pandas", "triton"}
