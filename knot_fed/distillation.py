"""The student learns from the teachers' soft labels on the transfer set."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from knot_fed.config import DistillConfig
from knot_fed.losses import Loss
from knot_fed.models import Schedule, TextClassifier, fit
from knot_fed.types import Text

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


def distil_student(
    student: TextClassifier,
    texts: Sequence[Text],
    soft_labels: Float[np.ndarray, "teachers examples classes"],
    weights: Float[np.ndarray, "teachers examples"],
    loss: Loss,
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
