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

from knot_fed.errors import PrivacyError
from knot_fed.models.text_classifier import Item, TextClassifier

PHYSICAL_BATCH = 64
"""Examples whose gradients are held at once; a sampled batch may be larger."""


@dataclass(frozen=True, slots=True)
class PrivateSchedule:
    """How DP-SGD trains: nothing in it may depend on the examples, their number included.

    Parameters
    ----------
    steps
        Of the optimiser.
    sampling_rate
        Probability with which each example takes part in a step.
    clipping_norm
        Largest L2 norm of one example's gradient.
    noise_multiplier
        Standard deviation of the noise over `clipping_norm`.
    learning_rate
        Of AdamW, to which the gradient's scale is nothing.
    """

    steps: int
    sampling_rate: float
    clipping_norm: float
    noise_multiplier: float
    learning_rate: float


def fit_privately(
    model: TextClassifier,
    items: Sequence[Item],
    labels: Int[np.ndarray, "examples"],
    schedule: PrivateSchedule,
    *,
    generator: np.random.Generator,
) -> None:
    """Train by DP-SGD (Abadi et al. 2016): sums of clipped gradients of Poisson samples, with Gaussian noise.

    Unit: one example. Neighbouring relation: one example more or less. Sensitivity: `clipping_norm` for each sum.
    Accountant: `dp_sgd_epsilon` of `knot_fed.privacy.accounting`. All steps are done and the last parameters are kept:
    nothing is chosen by a validation split. Sums are not divided by a batch size, since that would need the number of
    examples. There is no dropout, since the noise is regulariser enough, and `left_alone_by_dp_sgd` keeps its values.

    Parameters
    ----------
    model
        Trained in place, from parameters that do not depend on the examples.
    items, labels
        Encoded training examples and their labels.
    schedule
        Steps, rate, clipping and noise.
    generator
        Of sampling and noise. Whoever knows its seed can take the noise away, so outside of tests it comes from the
        operating system. It is no cryptographic one, and attacks on floating-point noise (Mironov 2012) stay out.

    Raises
    ------
    PrivacyError
        If Opacus is not installed or cannot treat a layer; nothing is trained then.
    """
    drawn = torch.Generator(device="cpu").manual_seed(int(generator.integers(2**63)))
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    with _only_private_layers(model), _per_example_gradients(model) as dp_optimiser:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = dp_optimiser(
            torch.optim.AdamW(trained, lr=schedule.learning_rate, weight_decay=0.0),
            noise_multiplier=schedule.noise_multiplier,
            max_grad_norm=schedule.clipping_norm,
            expected_batch_size=None,
            loss_reduction="sum",
            generator=drawn,
        )
        model.train()
        for dropout in (module for module in model.modules() if isinstance(module, nn.Dropout)):
            dropout.eval()
        for _ in range(schedule.steps):
            rows = np.flatnonzero(generator.random(len(items)) < schedule.sampling_rate)
            try:
                _step(model, items, targets, rows, optimiser)
            except (RuntimeError, ValueError) as error:
                raise _untreatable(model, type(error).__name__) from None
    model.eval()


def check_opacus() -> None:
    """Refuse DP-SGD where Opacus is missing.

    Raises
    ------
    PrivacyError
        With the command that installs it.
    """
    if find_spec("opacus") is None:
        raise PrivacyError("DP-SGD needs Opacus, which is not installed; pip install 'knot-fed[privacy]'")


def _step(
    model: TextClassifier, items: Sequence[Item], targets: torch.Tensor, rows: Int[np.ndarray, "batch"], optimiser: Any
) -> None:
    """Do one step on a sampled batch, in physical batches; an empty one still gets its noise."""
    parts = [rows[start : start + PHYSICAL_BATCH] for start in range(0, max(1, len(rows)), PHYSICAL_BATCH)]
    for part in parts:
        if len(part):
            logits = model.logits([items[row] for row in part])
            loss = nn.functional.cross_entropy(logits, targets[part].to(logits.device), reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            for parameter in optimiser.params:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        optimiser.signal_skip_step(do_skip=part is not parts[-1])
        optimiser.step()
        optimiser.zero_grad()


@contextmanager
def _only_private_layers(model: TextClassifier) -> Iterator[None]:
    """Let no gradient into the layers that DP-SGD leaves alone, for a while."""
    left_alone = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.startswith(model.left_alone_by_dp_sgd)
    ]
    for parameter in left_alone:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in left_alone:
            parameter.requires_grad_(True)


@contextmanager
def _per_example_gradients(model: TextClassifier) -> Iterator[Any]:
    """Let Opacus read the gradient of each example for a while, and give its optimiser."""
    check_opacus()
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer
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
            yield DPOptimizer
    finally:
        watched.cleanup()


def _untreatable(model: TextClassifier, found: str) -> PrivacyError:
    return PrivacyError(
        f"{model.spec.name}: Opacus cannot treat a layer ({found});"
        " use ngram-bag, tiny-bert, or an hf: model with trainable = 'head'"
    )
