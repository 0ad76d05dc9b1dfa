"""One training loop with early stopping, for teachers and students alike."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from knot_fed.models.storage import load_trained_state, seeded, trained_state
from knot_fed.models.text_classifier import Item, TextClassifier

BatchLoss = Callable[[Float[torch.Tensor, "examples classes"], Int[np.ndarray, "examples"]], Float[torch.Tensor, ""]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0


@dataclass(frozen=True, slots=True)
class Fit:
    """What a training run has seen: mean training loss and validation score of each epoch, and the epoch kept."""

    train_losses: tuple[float, ...]
    scores: tuple[float, ...]
    best_epoch: int


def use_threads(count: int) -> None:
    """Give torch the CPUs that this process was given.

    Parameters
    ----------
    count
        Number of threads; 0: `OMP_NUM_THREADS`, which Ray sets, or else the CPUs of this process.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(count or (int(given) if given.isdigit() and int(given) else len(os.sched_getaffinity(0))))


def fit(
    model: TextClassifier,
    items: Sequence[Item],
    batch_loss: BatchLoss,
    score: Callable[[], float],
    schedule: Schedule,
    *,
    seed: int,
) -> Fit:
    """Train with AdamW until the score has not risen for `patience` epochs, and keep the best epoch's parameters.

    Parameters
    ----------
    model
        Trained in place; the parameters that it starts with are epoch 0 and a candidate.
    items
        Encoded training examples.
    batch_loss
        Loss of a batch, from its logits and the positions of its items.
    score
        Quality of the model as it stands, higher is better.
    schedule
        Epochs, patience, batch size, learning rate (0: the model's default) and weight decay.
    seed
        Of order and dropout.
    """
    scores, losses = [score()], list[float]()
    best, best_state = 0, trained_state(model)
    with seeded(seed):
        for epoch, loss in enumerate(_epochs(model, items, batch_loss, schedule, seed=seed), start=1):
            losses.append(loss)
            scores.append(score())
            if scores[epoch] > scores[best]:
                best, best_state = epoch, trained_state(model)
            if epoch - best >= schedule.patience:
                break
    load_trained_state(model, best_state)
    model.eval()
    return Fit(tuple(losses), tuple(scores), best)


def fit_all_epochs(
    model: TextClassifier, items: Sequence[Item], batch_loss: BatchLoss, schedule: Schedule, *, seed: int
) -> tuple[float, ...]:
    """Train as `fit` does, but for all epochs, keep the last one's parameters, and return the mean loss of each."""
    with seeded(seed):
        losses = tuple(_epochs(model, items, batch_loss, schedule, seed=seed))
    model.eval()
    return losses


def class_weights(
    labels: Int[np.ndarray, "examples"], classes: int, scheme: Literal["none", "balanced"]
) -> Float[torch.Tensor, "classes"]:
    """Weigh the classes in cross-entropy: all 1, or `balanced`, by inverse frequency among the classes that occur."""
    counts = np.bincount(labels, minlength=classes)
    balanced = len(labels) / (max(1, int((counts > 0).sum())) * np.maximum(counts, 1))
    return torch.from_numpy((balanced if scheme == "balanced" else np.ones(classes)).astype(np.float32))


def predict_logits(
    model: TextClassifier, items: Sequence[Item], *, batch_size: int = 256
) -> Float[np.ndarray, "examples classes"]:
    """Return float32 logits for items, batched by length, in the order given."""
    logits = np.zeros((len(items), len(model.spec.labels)), dtype=np.float32)
    order = sorted(range(len(items)), key=lambda row: -model.item_length(items[row]))
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            logits[rows] = model.logits([items[row] for row in rows]).float().cpu().numpy()
    return logits


def _epochs(
    model: TextClassifier, items: Sequence[Item], batch_loss: BatchLoss, schedule: Schedule, *, seed: int
) -> Iterator[float]:
    rate = schedule.learning_rate or model.default_learning_rate
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=schedule.weight_decay)
    generator = np.random.default_rng(seed)
    for _ in range(schedule.epochs):
        order = generator.permutation(len(items))
        yield _epoch(model, items, order, batch_loss, optimiser, schedule.batch_size)


def _epoch(
    model: TextClassifier,
    items: Sequence[Item],
    order: Int[np.ndarray, "examples"],
    batch_loss: BatchLoss,
    optimiser: torch.optim.Optimizer,
    batch_size: int,
) -> float:
    model.train()
    total = 0.0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        optimiser.zero_grad()
        loss = batch_loss(model.logits([items[row] for row in rows]), rows)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += float(loss.detach()) * len(rows)
    return total / len(order)
