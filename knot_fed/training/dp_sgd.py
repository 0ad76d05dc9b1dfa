"""DP-SGD: the training loop whose result says little about any one example, by Opacus."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from knot_fed.errors import KnotError, PrivacyError
from knot_fed.models.device import memory_explained
from knot_fed.models.items import take
from knot_fed.models.text_classifier import Item, TextClassifier
from knot_fed.privacy.noise import NoiseSource
from knot_fed.types import Text

PHYSICAL_BATCH = 64
"""Examples whose gradients are in memory at once; a sampled batch may be larger."""


@dataclass(frozen=True, slots=True)
class PrivateSchedule:
    """Hyperparameters of DP-SGD; none may depend on the examples, including their number."""

    steps: int
    sampling_rate: float  # probability of each example in a step
    clipping_norm: float  # largest L2 norm of one example's gradient
    noise_multiplier: float  # standard deviation of the noise over clipping_norm
    learning_rate: float  # of AdamW, which is invariant to the scale of gradients


TRIED = PrivateSchedule(steps=1, sampling_rate=1.0, clipping_norm=1.0, noise_multiplier=1.0, learning_rate=0.0)
"""Settings of a trial, which changes no parameter."""


def fit_privately(
    model: TextClassifier,
    items: Sequence[Item],
    labels: Int[np.ndarray, "examples"],
    schedule: PrivateSchedule,
    *,
    source: NoiseSource,
) -> None:
    """Train by DP-SGD (Abadi et al. 2016): sums of clipped gradients of Poisson samples, with Gaussian noise.

    Unit: one example. Neighbouring relation: one example more or less. Sensitivity: `clipping_norm` for each sum.
    Accountant: `dp_sgd_epsilon` of `knot_fed.privacy.accounting`.

    All steps run and the last parameters stay: no validation split selects any. Sums are not divided by a batch size,
    which would reveal the number of examples. Dropout is off, since noise regularises enough, and parameters in
    `frozen_under_dp_sgd` do not change. A gradient that is not finite counts as 0.

    Parameters
    ----------
    model
        Trained in place, from parameters that do not depend on the examples.
    source
        Of sampling and noise.

    Raises
    ------
    PrivacyError
        Before training, if Opacus is missing or does not support a layer, or the model is random in training mode.
    """
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    with _private_training(model), _per_example_gradients(model):
        optimiser = _optimiser(model, schedule, source)
        model.train()
        _check_same_twice(model, items[:1])
        for _ in range(schedule.steps):
            rows = np.flatnonzero(source.coins(len(items), probability=schedule.sampling_rate))
            with _untreatable_if_it_fails(model):
                _step(model, items, targets, rows, optimiser)
    model.eval()


def check_treatable(model: TextClassifier, texts: Sequence[Text]) -> None:
    """Raise PrivacyError as `fit_privately`, before anything is charged or trained.

    The first of these public texts, twice in a batch, shows whether per-example gradients work. No parameter changes.
    """
    if model.spec.lora is not None and model.spec.lora.quantize != "none":
        raise PrivacyError(
            f"lora.quantize = {model.spec.lora.quantize!r}: the noise of DP-SGD does not cover the rounding of"
            " quantised layers; use lora.quantize = 'none'"
        )
    with _private_training(model), _per_example_gradients(model):
        optimiser, items = _optimiser(model, TRIED, NoiseSource()), model.encode([*texts[:1]] * 2)
        model.train()
        _check_same_twice(model, items)
        with _untreatable_if_it_fails(model):
            model.logits(items).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.clip_and_accumulate()
        optimiser.zero_grad()
    model.eval()


def check_opacus() -> None:
    """Raise PrivacyError, with the command that installs Opacus, if it is missing."""
    if find_spec("opacus") is None:
        raise PrivacyError("DP-SGD needs Opacus, which is not installed; pip install 'knot-fed[privacy]'")


def _optimiser(model: TextClassifier, schedule: PrivateSchedule, source: NoiseSource) -> Any:
    from knot_fed.training.dp_optimiser import ExactDPOptimizer

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam, multiplier = (
        torch.optim.AdamW(trained, lr=schedule.learning_rate, weight_decay=0.0),
        schedule.noise_multiplier,
    )
    return ExactDPOptimizer(adam, noise_multiplier=multiplier, max_grad_norm=schedule.clipping_norm, source=source)


def _step(
    model: TextClassifier, items: Sequence[Item], targets: torch.Tensor, rows: Int[np.ndarray, "batch"], optimiser: Any
) -> None:
    """Take one step on a sampled batch, in physical batches; an empty one still gets noise."""
    parts = [rows[start : start + PHYSICAL_BATCH] for start in range(0, max(1, len(rows)), PHYSICAL_BATCH)]
    for part in parts:
        if len(part):
            logits = model.logits(take(items, part))
            loss = nn.functional.cross_entropy(logits, targets[part].to(logits.device), reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            for parameter in optimiser.params:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        optimiser.signal_skip_step(do_skip=part is not parts[-1])
        optimiser.step()
        optimiser.zero_grad()


@contextmanager
def _private_training(model: TextClassifier) -> Iterator[None]:
    """Freeze `frozen_under_dp_sgd` and turn dropout off temporarily, including rates that attention reads itself.

    Autocast is off, too: the noise covers the rounding of float32 (`BATCH_ROUNDING`), not that of bfloat16.
    """
    changed: list[tuple[nn.Module | nn.Parameter, str, object, object]] = [
        (parameter, "requires_grad", True, False)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.startswith(model.frozen_under_dp_sgd)
    ]
    changed += [
        (module, name, value, 0.0)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and ("dropout" in name or (name == "p" and isinstance(module, _DropoutNd)))
    ]
    changed.append((model, "autocast_dtype", model.autocast_dtype, None))
    for holder, name, _, value in changed:
        setattr(holder, name, value)
    try:
        yield
    finally:
        for holder, name, value, _ in changed:
            setattr(holder, name, value)


def _check_same_twice(model: TextClassifier, items: Sequence[Item]) -> None:
    """Refuse a model that is random in training mode."""
    with torch.no_grad():
        if items and not torch.equal(model.logits(items), model.logits(items)):
            raise _untreatable(model, "one that draws random numbers")


@contextmanager
def _per_example_gradients(model: TextClassifier) -> Iterator[None]:
    """Attach Opacus's hooks for per-example gradients temporarily."""
    check_opacus()
    from opacus import GradSampleModule
    from opacus.validators import ModuleValidator

    model.train()
    unfit = [type(error).__name__ for error in ModuleValidator.validate(model)]
    try:
        watched = GradSampleModule(model, loss_reduction="sum")
    except NotImplementedError:
        unfit.append("a trained layer with buffers")
    if unfit:
        raise _untreatable(model, unfit[0])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield
    finally:
        watched.cleanup()


@contextmanager
def _untreatable_if_it_fails(model: TextClassifier) -> Iterator[None]:
    """Convert exceptions that Opacus raises inside a layer, of any type."""
    try:
        with memory_explained(model.spec.name):
            yield
    except KnotError:
        raise
    except Exception as error:
        raise _untreatable(model, type(error).__name__) from None


def _untreatable(model: TextClassifier, found: str) -> PrivacyError:
    return PrivacyError(
        f"{model.spec.name}: Opacus cannot treat a layer ({found});"
        " use ngram-bag, tiny-bert, or an hf: model with trainable = 'head' or 'lora'"
    )
