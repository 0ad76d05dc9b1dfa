"""The distillation losses: the interface, all losses, plug-ins, and the registry by the names of `distill.loss`."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import nn
from typing_extensions import override

from knot_fed.config import RunConfig
from knot_fed.config.choices import LEARNT_COSTS
from knot_fed.config.plugins import load_plugin, source_digest
from knot_fed.errors import PluginError
from knot_fed.geometry import configured_ground_cost
from knot_fed.geometry.matrix_file import SUFFIXES
from knot_fed.transport import Accuracy, GroundCost, OTLoss, sinkhorn_divergence
from knot_fed.transport.checks import Batch, check_prepared

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits (B, L), soft labels (B, K, L) and weights (B, K) to a scalar, differentiable in the logits.

The scalar is the mean over examples of `sum_k w_k D(a, q_k)`, a = softmax(logits). A row of weights may sum to any
number >= 0; the loss is linear in it, so that the sum is the text's own weight. Plug-ins have the same interface.
"""

LossKey: TypeAlias = Literal["distill.loss", "personal.loss"]
_LogStudent: TypeAlias = Float[torch.Tensor, "examples classes"]
_TeacherRows: TypeAlias = Float[torch.Tensor, "examples teachers classes"]
_Divergences: TypeAlias = Float[torch.Tensor, "examples teachers"]
SMALLEST_PROBABILITY = 1e-8
"""Soft labels are clamped to this before their logarithm is taken."""


class PairwiseLoss(nn.Module):
    """Mean over examples of `sum_k w_k D(a, q_k)`; a subclass defines the divergence D.

    Computed in float64 for float64 logits, else in float32. Differentiable in the logits. An empty batch has loss 0.
    """

    classes: int | None = None
    """Number of labels; None: any."""

    def forward(
        self,
        logits: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples *teachers classes"] | Int[torch.Tensor, "examples"],
        weights: torch.Tensor | None = None,
    ) -> Float[torch.Tensor, ""]:
        """Return the loss; the arguments are those of `OTLoss.forward`.

        Raises
        ------
        ValueError, TypeError, IndexError
            If shapes, devices, types or hard labels do not fit; see `knot_fed.transport.checks.Batch`.
        """
        batch = Batch(logits, soft_labels, weights, classes=self.classes)
        log_student = torch.log_softmax(batch.logits, dim=1)
        rows = (batch.weights * self.divergences(log_student, batch.soft_labels)).sum(dim=1)
        return rows.mean() if batch.examples else rows.sum()

    def divergences(self, log_student: _LogStudent, soft_labels: _TeacherRows) -> _Divergences:
        """Return D between the student's distribution, given as its logarithm, and each teacher's."""
        raise NotImplementedError


class SymmetrisedKL(PairwiseLoss):
    """`D(a, q) = (KL(a || q) + KL(q || a)) / 2`: the entropy-based baseline of KNOT's public code."""

    @override
    def divergences(self, log_student: _LogStudent, soft_labels: _TeacherRows) -> _Divergences:
        log_teachers = soft_labels.clamp(min=SMALLEST_PROBABILITY).log()
        student = log_student.exp()[:, None]
        return ((student - soft_labels) * (log_student[:, None] - log_teachers)).sum(dim=2) / 2


class ForwardKL(PairwiseLoss):
    """`D(a, q) = KL(q || a)`: distillation by cross-entropy to the teacher's soft labels (Hinton et al. 2015).

    Its gradient is that of `KL(sum_k w_k q_k || a)`, so the objectives pooled and per-teacher coincide.
    """

    @override
    def divergences(self, log_student: _LogStudent, soft_labels: _TeacherRows) -> _Divergences:
        return (torch.xlogy(soft_labels, soft_labels) - soft_labels * log_student[:, None]).sum(dim=2)


class ReverseKL(PairwiseLoss):
    """`D(a, q) = KL(a || q)`: large where only the student has mass (MiniLLM, Gu et al. 2024)."""

    @override
    def divergences(self, log_student: _LogStudent, soft_labels: _TeacherRows) -> _Divergences:
        log_teachers = soft_labels.clamp(min=SMALLEST_PROBABILITY).log()
        return (log_student.exp()[:, None] * (log_student[:, None] - log_teachers)).sum(dim=2)


class JensenShannon(PairwiseLoss):
    """`D(a, q) = (KL(a || m) + KL(q || m)) / 2` with `m = (a + q) / 2`, in [0, ln 2] (Lin 1991)."""

    @override
    def divergences(self, log_student: _LogStudent, soft_labels: _TeacherRows) -> _Divergences:
        student = log_student.exp()[:, None]
        log_middle = ((student + soft_labels) / 2).clamp(min=torch.finfo(student.dtype).tiny).log()
        from_student = student * (log_student[:, None] - log_middle)
        from_teachers = torch.xlogy(soft_labels, soft_labels) - soft_labels * log_middle
        return (from_student + from_teachers).sum(dim=2) / 2


class MeanSquaredError(PairwiseLoss):
    """`D(a, q) = |a - q|^2 / classes`, on probabilities; clients never send logits."""

    @override
    def divergences(self, log_student: _LogStudent, soft_labels: _TeacherRows) -> _Divergences:
        return (log_student.exp()[:, None] - soft_labels).square().mean(dim=2)


class SinkhornDivergence(PairwiseLoss):
    """`D(a, q) = OT_eps(a, q) - OT_eps(a, a) / 2 - OT_eps(q, q) / 2` (Feydy et al. 2019).

    Parameters
    ----------
    ground_cost
        Prepared ground cost.
    entropic_epsilon
        The blur, as a share of the largest ground cost, > 0. Towards 0 this is the transport loss, which `OTLoss`
        computes exactly and faster.
    """

    def __init__(self, ground_cost: GroundCost, *, entropic_epsilon: float) -> None:
        super().__init__()
        check_prepared(ground_cost)
        self.ground_cost = ground_cost
        self.classes = len(ground_cost)
        self.entropic_epsilon = entropic_epsilon

    @override
    def divergences(self, log_student: _LogStudent, soft_labels: _TeacherRows) -> _Divergences:
        return sinkhorn_divergence(
            log_student.exp(), soft_labels, self.ground_cost, entropic_epsilon=self.entropic_epsilon
        )


def _optimal_transport(config: RunConfig, known: GroundCost | None) -> Loss:
    accuracy = Accuracy(config.transport.entropic_epsilon, config.transport.marginal_error)
    return OTLoss(known or configured_ground_cost(config), solver=config.transport.solver, accuracy=accuracy)


def _sinkhorn_divergence(config: RunConfig, known: GroundCost | None) -> Loss:
    epsilon = config.transport.divergence_epsilon
    return SinkhornDivergence(known or configured_ground_cost(config), entropic_epsilon=epsilon)


BUILDERS: dict[str, Callable[[RunConfig, GroundCost | None], Loss]] = {
    "ot": _optimal_transport,
    "sinkhorn-divergence": _sinkhorn_divergence,
    "entropy": lambda *_: SymmetrisedKL(),
    "kl": lambda *_: ForwardKL(),
    "reverse-kl": lambda *_: ReverseKL(),
    "jensen-shannon": lambda *_: JensenShannon(),
    "mse": lambda *_: MeanSquaredError(),
}
"""Builders by the names of `distill.loss`, which `knot_fed.config.choices` lists."""
TRANSPORT_KEYS: Mapping[str, frozenset[str]] = {
    "ot": frozenset(f"transport.{key}" for key in ("cost", "encoder", "solver", "entropic-epsilon", "marginal-error")),
    "sinkhorn-divergence": frozenset({"transport.cost", "transport.encoder", "transport.divergence-epsilon"}),
}
"""Keys of `transport` that a loss reads; losses that are not listed, and plug-ins, read none."""


def loss_keys(config: RunConfig) -> dict[LossKey, str]:
    """Return the losses that a run uses, by key: of the student, and of personal models where there are any."""
    with_personal: dict[LossKey, str] = {"personal.loss": config.personal.loss}
    return {"distill.loss": config.distill.loss, **(with_personal if config.personal.consensus != "none" else {})}


def reads_cost(config: RunConfig, *, key: LossKey = "distill.loss") -> bool:
    """Return whether the loss that `key` names reads `transport.cost`."""
    name = config.distill.loss if key == "distill.loss" else config.personal.loss
    return "transport.cost" in TRANSPORT_KEYS.get(name, frozenset())


def learns_cost(config: RunConfig) -> bool:
    """Return whether the loss needs the first round's answers, from which its ground cost is learnt."""
    return reads_cost(config) and config.transport.cost in LEARNT_COSTS


def loss_content(config: RunConfig, *, key: LossKey = "distill.loss") -> list[str]:
    """Return digests of a plug-in's source and of the matrix that the loss reads, since files may change.

    A plug-in without a source file, such as a callable object, has none; a file that is missing is left to `make_loss`.
    """
    name = config.distill.loss if key == "distill.loss" else config.personal.loss
    with contextlib.suppress(TypeError, OSError):
        if name not in BUILDERS:
            return [source_digest(load_plugin(name, key=key, known=tuple(BUILDERS)))]
        if reads_cost(config, key=key) and config.ground_cost.endswith(SUFFIXES):
            return [hashlib.sha256(Path(config.ground_cost).read_bytes()).hexdigest()]
    return []


def make_loss(config: RunConfig, *, key: LossKey = "distill.loss", ground_cost: GroundCost | None = None) -> Loss:
    """Build the loss that `key` names, or import a plug-in.

    Parameters
    ----------
    ground_cost
        Instead of that of `transport.cost`; needed if it is learnt (`learns_cost`).

    Raises
    ------
    ConfigError
        If a plug-in cannot be imported or is not callable.
    GroundCostError
        If the ground cost is not a metric on the run's labels, its file cannot be read, or the solver does not apply.
    """
    name = config.distill.loss if key == "distill.loss" else config.personal.loss
    if name in BUILDERS:
        return BUILDERS[name](config, ground_cost)
    return checked_loss(load_plugin(name, key=key, known=tuple(BUILDERS)), name=name, key=key)


NO_GRADIENT = "your function's result has no gradient in the logits; compute it by torch"


def checked_loss(function: Loss, *, name: str, key: LossKey = "distill.loss") -> Loss:
    """Wrap a plug-in loss so that PluginError is raised unless it returns one number with a gradient."""

    def checked(logits: torch.Tensor, soft_labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        value = function(logits, soft_labels, weights)
        if not isinstance(value, torch.Tensor) or value.ndim or not value.is_floating_point():
            is_tensor = isinstance(value, torch.Tensor)
            found = f"a tensor of shape {tuple(value.shape)}" if is_tensor else type(value).__name__
            raise PluginError(
                f"{key} = {name!r}: your function returned {found}; return one number, the mean over examples"
            )
        if torch.is_grad_enabled() and logits.requires_grad and not value.requires_grad:
            raise PluginError(f"{key} = {name!r}: {NO_GRADIENT}")
        return value

    return checked


def try_loss(loss: Loss, *, labels: int, name: str, key: LossKey = "distill.loss") -> None:
    """Call a loss on a small batch, forward and backward; PluginError if value or gradient is not finite."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, labels, generator=generator, requires_grad=True)
    soft_labels = torch.softmax(torch.randn(4, 3, labels, generator=generator), dim=2)
    weights = torch.softmax(torch.randn(4, 3, generator=generator), dim=1)
    value = loss(logits, soft_labels, weights)
    value.backward()  # type: ignore[no-untyped-call]
    if logits.grad is None:
        raise PluginError(f"{key} = {name!r}: {NO_GRADIENT}")
    if not torch.isfinite(value) or not torch.isfinite(logits.grad).all():
        raise PluginError(
            f"{key} = {name!r}: on a small batch your function returned {float(value.detach()):g}, or a"
            " gradient that is not finite; correct it"
        )
