"""Distillation of the student from the teachers' soft labels on the transfer set."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import softmax

from knot_fed.config import DistillConfig, RunConfig
from knot_fed.errors import SoftLabelsError
from knot_fed.losses import TRANSPORT_KEYS, Loss
from knot_fed.models import Item, TextClassifier, batches, device_of, memory_explained, predict_logits, send, take
from knot_fed.training.cross_entropy import ClassWeights, CrossEntropy
from knot_fed.training.fitting import Fit, FitState, Schedule, fit
from knot_fed.types import LabelledTexts, Text

EVALUATION_BATCH = 512
SATURATED = 0.99
"""Top probability above which the gradient through the softmax nearly vanishes: `p (f - <p, f>)` in transport."""


@dataclass(frozen=True, slots=True)
class DistillationResult:
    """Outcome of one distillation."""

    epochs_run: int
    best_epoch: int  # whose parameters the student has; 0 is the start
    train_losses: tuple[float, ...]  # of epochs 1, 2, ...
    validation_losses: tuple[float, ...]  # of epochs 0, 1, ...
    saturated: float  # share of the transfer texts on which the student's top probability exceeds .99
    seconds: float  # wall time
    seconds_in_loss: float

    @classmethod
    def of(cls, fitted: Fit, saturated: float, *, seconds: float, in_loss: float) -> "DistillationResult":
        """Describe a fit whose scores are negative held-out losses."""
        held_out = tuple(-score for score in fitted.scores)
        losses = fitted.train_losses
        return cls(len(losses), fitted.best_epoch, losses, held_out, saturated, seconds, in_loss)

    @property
    def unmoved(self) -> bool:
        """Whether the student is unchanged: no epoch lowered the held-out loss."""
        return self.best_epoch == 0


def distillation_settings(config: RunConfig) -> dict[str, str | float]:
    """Return the settings of a distillation for `summary.json`; an unused cost is empty."""
    read = TRANSPORT_KEYS.get(config.distill.loss, frozenset())
    return {
        "loss": config.distill.loss,
        "objective": config.distill.objective,
        "weights": config.weights.weighting,
        "cost": config.ground_cost if "transport.cost" in read else "",
        "agreement": config.distill.agreement,
        "supervised": config.distill.supervised,
    }


class PublicCrossEntropy:
    """`weight` times the student's cross-entropy on batches of public examples, drawn with replacement at each call.

    `weigh_classes` is that of `teacher.class-weights`.
    """

    def __init__(
        self, student: TextClassifier, examples: LabelledTexts, *, weight: float, weigh_classes: ClassWeights, seed: int
    ) -> None:
        self.weight = weight
        self._student = student
        self._items = student.encode(examples.texts)
        self._cross_entropy = CrossEntropy(examples.labels, len(student.spec.labels), weigh_classes)
        self._generator = np.random.default_rng(seed)

    @property
    def state(self) -> dict[str, Any]:
        """State of the generator of batches; JSON represents it exactly."""
        return dict(self._generator.bit_generator.state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = state

    def __call__(self, size: int) -> Float[torch.Tensor, ""]:
        """Return the loss of a batch of `size` examples; differentiable in the student's parameters."""
        rows = self._generator.integers(len(self._items), size=size)
        return self.weight * self._cross_entropy(self._student.logits(take(self._items, rows)), rows)


def distil_student(
    student: TextClassifier,
    texts: Sequence[Text],
    soft_labels: Float[np.ndarray, "teachers examples classes"],
    weights: Float[np.ndarray, "teachers examples"],
    loss: Loss,
    settings: DistillConfig,
    *,
    seed: int,
    supervision: PublicCrossEntropy | None = None,
    start: FitState | None = None,
    on_epoch: Callable[[FitState], None] | None = None,
) -> DistillationResult:
    """Train the student on the teachers' soft labels, and select the epoch by the same loss on held-out texts.

    Parameters
    ----------
    student
        Trained in place; epoch 0 is a candidate, so the held-out loss never rises.
    texts
        The transfer texts that the teachers labelled, at least 2 of them with a weight.
    soft_labels, weights
        Pooled soft labels are one teacher of weight 1. The weights of a text may sum to any number, its own weight; a
        text of weight 0 neither teaches nor is held out.
    supervision
        Added to the loss of each batch, with as many public examples; not to the held-out loss.
    start, on_epoch
        As in `fit`, to resume an interrupted distillation.

    Raises
    ------
    SoftLabelsError, ModelError, PluginError
        If the shapes do not fit, the loss is not finite, or a plug-in loss cannot be used.
    """
    started, device = time.monotonic(), device_of(student)
    with memory_explained(student.spec.name):
        targets = _Targets(soft_labels, weights, loss, len(texts), device)
    items = student.encode(texts)
    train_rows, held_rows = _hold_out(targets.taught, settings.validation, seed)

    def batch_loss(logits: torch.Tensor, positions: Int[np.ndarray, "batch"]) -> torch.Tensor:
        value = targets.loss(logits, train_rows[positions])
        return value if supervision is None else value + supervision(len(positions))

    def held_out_score() -> float:
        return -targets.mean_loss(student, items, held_rows)

    kept, schedule = take(items, train_rows), Schedule.of(settings, loss=settings.loss, dropout=settings.dropout)
    schedule = schedule.lasting(settings.least_steps, items=len(kept))
    result = fit(student, kept, batch_loss, held_out_score, schedule, seed=seed, start=start, on_epoch=on_epoch)
    saturated, in_loss = _saturated(student, items), targets.watch.seconds()
    return DistillationResult.of(result, saturated, seconds=time.monotonic() - started, in_loss=in_loss)


def _saturated(student: TextClassifier, items: Sequence[Item]) -> float:
    """Return the share of the items with a top probability above .99."""
    return float((softmax(predict_logits(student, items), axis=1).max(axis=1) > SATURATED).mean())


class _Stopwatch:
    """Seconds between `start` and `stop`, by the clock; on a GPU between its own events, so that nothing waits."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._total, self._started, self._events = 0.0, 0.0, list[Any]()

    def start(self) -> None:
        self._mark()
        self._started = time.monotonic()

    def stop(self) -> None:
        self._mark()
        self._total += 0.0 if self._on_gpu else time.monotonic() - self._started

    def seconds(self) -> float:
        """Return the sum; on a GPU this waits for its work."""
        if self._events:
            self._events[-1].synchronize()
        pairs = zip(self._events[::2], self._events[1::2], strict=True)
        return self._total + float(sum(begun.elapsed_time(ended) for begun, ended in pairs)) / 1e3

    def _mark(self) -> None:
        if self._on_gpu:
            self._events.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._events[-1].record()


class _Targets:
    """The teachers' answers as tensors on the student's device, the loss on them, and the seconds spent in it."""

    def __init__(
        self,
        soft_labels: Float[np.ndarray, "teachers examples classes"],
        weights: Float[np.ndarray, "teachers examples"],
        loss: Loss,
        texts: int,
        device: torch.device,
    ) -> None:
        shapes = [np.shape(soft_labels), np.shape(weights)]
        if len(shapes[0]) != 3 or shapes[0][1] != texts or shapes[1] != shapes[0][:2] or texts < 2:
            raise SoftLabelsError(
                f"distil_student: soft_labels of shape {shapes[0]} and weights of shape {shapes[1]} for {texts} texts;"
                " use (teachers, texts, labels) and (teachers, texts), with at least 2 texts"
            )
        soft_labels, weights = np.asarray(soft_labels), np.asarray(weights)
        self.taught = np.flatnonzero(weights.sum(axis=0) > 0)
        if len(self.taught) < 2:
            raise SoftLabelsError(
                f"distil_student: {len(self.taught)} of {texts} texts have a weight above 0; give at least 2, of which"
                " one is held out"
            )
        self.watch = _Stopwatch(device)
        self._soft_labels = torch.from_numpy(soft_labels.transpose(1, 0, 2).astype(np.float32)).to(device)
        self._weights = torch.from_numpy(weights.T.astype(np.float32)).to(device)
        self._loss = loss

    def loss(
        self, logits: Float[torch.Tensor, "batch classes"], rows: Int[np.ndarray, "batch"]
    ) -> Float[torch.Tensor, ""]:
        """Return the loss of logits for the texts at these rows."""
        self.watch.start()
        chosen = send(torch.from_numpy(rows), logits.device)
        value = self._loss(logits, self._soft_labels[chosen], self._weights[chosen])
        self.watch.stop()
        return value

    def mean_loss(self, student: TextClassifier, items: Sequence[Item], rows: Int[np.ndarray, "held"]) -> float:
        """Return the student's mean loss on these rows, without a gradient."""
        student.eval()
        total = 0.0
        parts = [rows[start : start + EVALUATION_BATCH] for start in range(0, len(rows), EVALUATION_BATCH)]
        with torch.no_grad():
            for held, batch in batches(student, items, parts):
                total += float(self.loss(student.batch_logits(batch), held)) * len(held)
        return total / len(rows)


def _hold_out(
    taught: Int[np.ndarray, "rows"], share: float, seed: int
) -> tuple[Int[np.ndarray, "train"], Int[np.ndarray, "held"]]:
    order = np.random.default_rng(seed).permutation(len(taught))
    held = min(max(1, round(share * len(taught))), len(taught) - 1)
    return taught[np.sort(order[held:])], taught[np.sort(order[:held])]
