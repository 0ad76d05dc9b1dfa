"""The training loop of teachers and students, with early stopping."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.optim.lr_scheduler import LambdaLR

from knot_fed.config import DistillConfig, RateSchedule, TeacherConfig
from knot_fed.errors import ModelError
from knot_fed.models.batches import batches
from knot_fed.models.device import device_of, memory_explained
from knot_fed.models.storage import load_trained_state, seeded, trained_state
from knot_fed.models.text_classifier import Item, TextClassifier

BatchLoss = Callable[[Float[torch.Tensor, "examples classes"], Int[np.ndarray, "examples"]], Float[torch.Tensor, ""]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Hyperparameters of training, and the name of the loss in messages."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    loss: str = "cross-entropy"
    warmup: float = 0.0  # share of the steps
    shape: RateSchedule = "constant"  # of the learning rate after the warm-up
    clip_norm: float = 0.0  # largest L2 norm of a step's gradient; 0: any
    accumulate: int = 1  # batches in an optimiser step
    dropout: bool = True

    @classmethod
    def of(cls, settings: TeacherConfig | DistillConfig, **more: Any) -> "Schedule":
        """Return the settings that teachers and distillation share, and more fields."""
        return cls(
            settings.epochs, settings.patience, settings.batch_size, settings.learning_rate, warmup=settings.warmup,
            shape=settings.schedule, clip_norm=settings.clip_norm, accumulate=settings.accumulate, **more,
        )  # fmt: skip

    def steps(self, items: int) -> int:
        """Return the optimiser steps of an epoch over so many items."""
        return math.ceil(items / (self.batch_size * self.accumulate))

    def lasting(self, steps: int, *, items: int) -> "Schedule":
        """Return the schedule with as many times the epochs, and the patience, as all epochs need for these steps.

        Examples
        --------
        >>> few = Schedule(epochs=4, patience=2, batch_size=256, learning_rate=0.0).lasting(90, items=1425)
        >>> few.epochs, few.patience
        (16, 8)
        """
        times = max(1, math.ceil(steps / (self.epochs * self.steps(items))))
        return replace(self, epochs=times * self.epochs, patience=times * self.patience)


def rate_factor(step: int, *, steps: int, warmup: float, shape: RateSchedule) -> float:
    """Return the share of the learning rate at a step, counted from 0, of `steps`.

    It rises linearly over the first `warmup` of the steps. Then it stays at 1, or falls to 0 at the end of the last
    step: on a line, or as half a period of a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts).

    Examples
    --------
    >>> [rate_factor(step, steps=6, warmup=1 / 3, shape="linear") for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    passed = (step - rising) / max(1, steps - rising)
    return {"constant": 1.0, "linear": 1 - passed, "cosine": (1 + math.cos(math.pi * passed)) / 2}[shape]


@dataclass(frozen=True, slots=True)
class Fit:
    """Mean training loss of each epoch, validation scores from epoch 0, and the selected epoch."""

    train_losses: tuple[float, ...]
    scores: tuple[float, ...]
    best_epoch: int


@dataclass(frozen=True, slots=True, eq=False)
class FitState:
    """State to resume from after an epoch: arrays by name, and facts that JSON represents exactly."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def fit(
    model: TextClassifier,
    items: Sequence[Item],
    batch_loss: BatchLoss,
    score: Callable[[], float],
    schedule: Schedule,
    *,
    seed: int,
    start: FitState | None = None,
    on_epoch: Callable[[FitState], None] | None = None,
) -> Fit:
    """Train with AdamW until the score has not risen for `patience` epochs; keep the best epoch's parameters.

    Parameters
    ----------
    model
        Trained in place; its initial parameters, epoch 0, are a candidate.
    batch_loss
        Loss of a batch, from its logits and the positions of its items.
    score
        Current quality of the model, higher is better.
    seed
        Of order and dropout.
    start
        State that `on_epoch` received, to resume from; the final parameters are the same. None: epoch 0.
    on_epoch
        Called with the state before each epoch.

    Raises
    ------
    ModelError
        If the loss is not finite; the message names the step, or on a GPU the epoch. If a GPU's memory is full.
    """
    with memory_explained(model.spec.name), seeded(seed, device_of(model)):
        training = _Training(model, items, batch_loss, schedule, seed=seed)
        if start is None:
            scores, losses, best, best_state = [score()], list[float](), 0, trained_state(model)
        else:
            best_state = training.load_state(start)
            scores, losses, best = list(start.facts["scores"]), list(start.facts["losses"]), start.facts["best"]
        while len(losses) - best < schedule.patience and len(losses) < schedule.epochs:
            if on_epoch is not None:
                on_epoch(training.state(best_state, scores=tuple(scores), losses=tuple(losses), best=best))
            losses.append(training.epoch(len(losses) + 1))
            scores.append(score())
            if scores[-1] > scores[best]:
                best, best_state = len(losses), trained_state(model)
    load_trained_state(model, best_state)
    model.eval()
    return Fit(tuple(losses), tuple(scores), best)


def fit_all_epochs(
    model: TextClassifier, items: Sequence[Item], batch_loss: BatchLoss, schedule: Schedule, *, seed: int
) -> tuple[float, ...]:
    """Train as `fit` for all epochs, keep the last parameters, and return the mean loss of each epoch."""
    with memory_explained(model.spec.name), seeded(seed, device_of(model)):
        training = _Training(model, items, batch_loss, schedule, seed=seed)
        losses = tuple(training.epoch(number) for number in range(1, schedule.epochs + 1))
    model.eval()
    return losses


class _Training:
    """Epochs of AdamW over items in a seeded order, with a state between epochs."""

    def __init__(
        self, model: TextClassifier, items: Sequence[Item], batch_loss: BatchLoss, schedule: Schedule, *, seed: int
    ) -> None:
        self._rate = schedule.learning_rate or model.default_learning_rate
        self._optimiser = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=self._rate,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        self._generator = np.random.default_rng(seed)
        self._model, self._items, self._batch_loss, self._schedule = model, items, batch_loss, schedule
        self._loss, self._device = schedule.loss, device_of(model)
        self._steps = schedule.steps(len(items))
        self._rates = self._rates_after(epochs=0)
        model.compile_network()

    def _rates_after(self, *, epochs: int) -> LambdaLR:
        """Set the learning rate as it is after some epochs, and return what changes it at each step."""
        settings, steps = self._schedule, self._steps * self._schedule.epochs

        def factor(step: int) -> float:
            return rate_factor(step, steps=steps, warmup=settings.warmup, shape=settings.shape)

        return LambdaLR(self._optimiser, factor, last_epoch=epochs * self._steps - 1)

    def epoch(self, number: int) -> float:
        """Train one epoch, counted from 1, and return the mean loss."""
        self._model.train(self._schedule.dropout)
        order, size = self._generator.permutation(len(self._items)), self._schedule.batch_size
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        sizes = [len(part) for part in parts]
        total: float | torch.Tensor = 0.0
        for step, (rows, batch) in enumerate(batches(self._model, self._items, parts), start=1):
            loss = self._batch_loss(self._model.batch_logits(batch), rows)
            self._descend(loss, step, sizes)
            if self._device.type == "cuda":  # reading the value would wait for the step
                total = total + loss.detach().double() * len(rows)
            else:
                total += self._finite(float(loss.detach()), f"step {step} of epoch {number}") * len(rows)
        return self._finite(float(total), f"epoch {number}") / len(order)

    def _descend(self, loss: Float[torch.Tensor, ""], step: int, sizes: Sequence[int]) -> None:
        """Add a batch's gradient to that of its step, in which all examples count alike; its last batch takes it."""
        first = (step - 1) // self._schedule.accumulate * self._schedule.accumulate
        together = sizes[first : first + self._schedule.accumulate]
        if step == first + 1:
            self._optimiser.zero_grad()
        loss = loss * (sizes[step - 1] / sum(together))
        loss.backward()  # type: ignore[no-untyped-call]
        if step == first + len(together):
            if self._schedule.clip_norm:
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._schedule.clip_norm)
            self._optimiser.step()
            self._rates.step()

    def _finite(self, value: float, where: str) -> float:
        if math.isfinite(value):
            return value
        raise ModelError(
            f"training {self._model.spec.name}: the loss {self._loss} is {value} in {where}, at a learning rate of"
            f" {self._rate:g}; use a lower rate, or correct the loss",
            refusal="training did not stay finite; lower the learning rate",
        )

    def state(self, best_state: dict[str, np.ndarray], **facts: Any) -> FitState:
        """Copy parameters, optimiser and random state."""
        arrays = {f"model/{name}": value for name, value in trained_state(self._model).items()}
        arrays |= {f"best/{name}": value for name, value in best_state.items()}
        for place, values in self._optimiser.state_dict()["state"].items():
            arrays |= {f"optimiser/{place}/{name}": value.cpu().numpy().copy() for name, value in values.items()}
        arrays["random/cpu"] = torch.get_rng_state().numpy()
        if self._device.type == "cuda":
            arrays["random/cuda"] = torch.cuda.get_rng_state(self._device).numpy()
        return FitState(arrays, {**facts, "generator": self._generator.bit_generator.state})

    def load_state(self, start: FitState) -> dict[str, np.ndarray]:
        """Restore what `state` copied, and return the best epoch's parameters."""
        parts: dict[str, dict[str, np.ndarray]] = {"model": {}, "best": {}, "optimiser": {}, "random": {}}
        for name, value in start.arrays.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = value
        load_trained_state(self._model, parts["model"])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in parts["optimiser"].items():
            place, _, moment = name.partition("/")
            moments.setdefault(int(place), {})[moment] = torch.from_numpy(np.array(value))
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": moments})
        self._rates = self._rates_after(epochs=len(start.facts["losses"]))
        self._generator.bit_generator.state = start.facts["generator"]
        torch.set_rng_state(torch.from_numpy(np.array(parts["random"]["cpu"])))
        if self._device.type == "cuda" and "cuda" in parts["random"]:  # not if it was interrupted on a CPU
            torch.cuda.set_rng_state(torch.from_numpy(np.array(parts["random"]["cuda"])), self._device)
        return parts["best"]
