"""The student learns from the teachers' soft labels on the transfer set."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from knot_fed.config import DistillConfig, RunConfig
from knot_fed.errors import GroundCostError
from knot_fed.labels import LabelSpace
from knot_fed.models import Schedule, TextClassifier, fit
from knot_fed.transport import Accuracy, GroundCost, OTLoss, check_ground_cost, make_ground_cost
from knot_fed.types import Text

SMALLEST_PROBABILITY = 1e-8
EVALUATION_BATCH = 512


@dataclass(frozen=True, slots=True)
class DistillationResult:
    """How one distillation went: losses by epoch (validation from epoch 0), the epoch kept, and time in seconds."""

    epochs_run: int
    best_epoch: int
    train_losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    seconds: float
    seconds_in_loss: float


class SymmetrisedKL(nn.Module):
    """Mean of `sum_k w_k (KL(a || q_k) + KL(q_k || a)) / 2`: the entropy-based baseline of KNOT's public code."""

    def forward(
        self,
        logits: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples teachers classes"],
        weights: Float[torch.Tensor, "examples teachers"],
    ) -> Float[torch.Tensor, ""]:
        """Return the loss; differentiable in the logits."""
        student = torch.log_softmax(logits.float(), dim=1)[:, None]
        teachers = soft_labels.clamp(min=SMALLEST_PROBABILITY).log()
        divergences = ((student.exp() - soft_labels) * (student - teachers)).sum(dim=2) / 2
        return (weights * divergences).sum(dim=1).mean()


class PooledKL(nn.Module):
    """Mean of `KL(sum_k w_k q_k || a)`: plain distillation from the pooled soft labels (Hinton et al. 2015)."""

    def forward(
        self,
        logits: Float[torch.Tensor, "examples classes"],
        soft_labels: Float[torch.Tensor, "examples teachers classes"],
        weights: Float[torch.Tensor, "examples teachers"],
    ) -> Float[torch.Tensor, ""]:
        """Return the loss; differentiable in the logits."""
        pooled = (weights[:, :, None] * soft_labels).sum(dim=1)
        return nn.functional.kl_div(torch.log_softmax(logits.float(), dim=1), pooled, reduction="batchmean")


def make_loss(config: RunConfig) -> nn.Module:
    """Build the loss that a run asks for: `ot`, `entropy` or `kl`.

    Raises
    ------
    GroundCostError
        If the ground cost is not a metric on the run's labels, or its file cannot be read.
    """
    if config.distill.loss == "entropy":
        return SymmetrisedKL()
    if config.distill.loss == "kl":
        return PooledKL()
    ground_cost = _ground_cost(config.transport.cost, config.label_space())
    accuracy = Accuracy(config.transport.entropic_epsilon, config.transport.marginal_error)
    return OTLoss(ground_cost, solver=config.transport.solver, accuracy=accuracy)


def distil_student(
    student: TextClassifier,
    texts: Sequence[Text],
    soft_labels: Float[np.ndarray, "teachers examples classes"],
    weights: Float[np.ndarray, "teachers examples"],
    loss: nn.Module,
    settings: DistillConfig,
    *,
    seed: int,
) -> DistillationResult:
    """Train the student on the teachers' soft labels; held-out texts choose the epoch by the same loss.

    Parameters
    ----------
    student
        Trained in place; its start is a candidate, so that distillation never makes the held-out loss worse.
    texts
        The transfer texts that the teachers labelled, at least 2.
    soft_labels, weights
        What the teachers said, and how much each counts on each text; pooled soft labels are one teacher of weight 1.
    loss
        Called with logits (B, L), soft labels (B, K, L) and weights (B, K).
    settings
        Epochs, patience, batch size, learning rate and the held-out share.
    seed
        Of the held-out share, order and dropout.
    """
    started, clock = time.monotonic(), _Clock()
    targets = torch.from_numpy(soft_labels.transpose(1, 0, 2).astype(np.float32))
    shares = torch.from_numpy(weights.T.astype(np.float32))
    order = np.random.default_rng(seed).permutation(len(texts))
    held = max(1, round(settings.validation * len(texts)))
    items = student.encode(texts)
    train_rows, held_rows = np.sort(order[held:]), np.sort(order[:held])

    def loss_at(logits: torch.Tensor, rows: Int[np.ndarray, "batch"]) -> torch.Tensor:
        with clock:
            value: torch.Tensor = loss(logits, targets[rows].to(logits.device), shares[rows].to(logits.device))
        return value

    def held_out_score() -> float:
        student.eval()
        total = 0.0
        with torch.no_grad():
            for start in range(0, held, EVALUATION_BATCH):
                rows = held_rows[start : start + EVALUATION_BATCH]
                total += float(loss_at(student.logits([items[row] for row in rows]), rows)) * len(rows)
        return -total / held

    schedule = Schedule(settings.epochs, settings.patience, settings.batch_size, settings.learning_rate)
    result = fit(
        student,
        [items[row] for row in train_rows],
        lambda logits, rows: loss_at(logits, train_rows[rows]),
        held_out_score,
        schedule,
        seed=seed,
    )
    return DistillationResult(
        epochs_run=len(result.train_losses),
        best_epoch=result.best_epoch,
        train_losses=result.train_losses,
        validation_losses=tuple(-score for score in result.scores),
        seconds=time.monotonic() - started,
        seconds_in_loss=clock.seconds,
    )


class _Clock:
    """Adds up the time spent inside its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._started


def _ground_cost(name: str, labels: LabelSpace) -> GroundCost:
    path = Path(name)
    if path.suffix not in (".npy", ".csv"):
        return make_ground_cost(name, labels)
    try:
        matrix = (
            np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, delimiter=",", ndmin=2)
        )
    except (OSError, ValueError):
        raise GroundCostError(
            f"{path.name}: cannot be read as a matrix; give a .npy or a .csv file of numbers"
        ) from None
    return check_ground_cost(np.asarray(matrix, dtype=np.float64), names=labels.names)
