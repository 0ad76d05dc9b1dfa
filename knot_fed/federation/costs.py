"""What a request would cost the client's machine, estimated from public texts before anything is charged."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from knot_fed.answers import TeacherPlan
from knot_fed.errors import PolicyError
from knot_fed.models import TextClassifier
from knot_fed.privacy.policy import ReleasePolicy
from knot_fed.types import Text

FLOAT_BYTES = 4
TRIAL_TEXTS = 32


@dataclass(frozen=True, slots=True)
class RequestCost:
    """Optimiser steps, teachers, bytes of parameters and answers, and seconds; of a teacher that is still to train."""

    steps: int
    shards: int
    bytes: int
    seconds: float


def estimate_cost(plan: TeacherPlan, model: TextClassifier, texts: Sequence[Text]) -> RequestCost:
    """Estimate a request by arithmetic, and its seconds by one step on public texts.

    Parameters
    ----------
    plan
        The teacher that would be trained.
    model
        Of its specification, not trained.
    texts
        The transfer texts asked; no private text is read.
    """
    shards = plan.run.privacy.shards if plan.run.privacy.mechanism == "pate" else 1
    steps, batch = _steps(plan, shards)
    size = FLOAT_BYTES * sum(parameter.numel() for parameter in model.parameters())
    answers = FLOAT_BYTES * len(texts) * len(plan.spec.labels) * shards
    to_read, to_train = _trial_seconds(model, texts[:TRIAL_TEXTS])
    read = len(plan.examples.train) + len(plan.examples.val) + shards * len(texts)
    return RequestCost(steps, shards, size * shards + answers, to_read * read + to_train * steps * batch)


def check_cost(cost: RequestCost, *, policy: ReleasePolicy) -> None:
    """Refuse a request that would cost more than the owner allows.

    Raises
    ------
    PolicyError
        With the limit and the estimate.
    """
    for name, limit, estimate in (
        ("max-steps", policy.max_steps, cost.steps),
        ("max-shards", policy.max_shards, cost.shards),
        ("max-bytes", policy.max_bytes, cost.bytes),
        ("max-seconds", policy.max_seconds, cost.seconds),
    ):
        if limit and estimate > limit:
            raise PolicyError(f"the request would take about {estimate:.3g} of {name} = {limit}; ask for less")


def _steps(plan: TeacherPlan, shards: int) -> tuple[int, int]:
    """Return optimiser steps in all, and the examples of one of them."""
    settings, privacy, examples = plan.run.teacher, plan.run.privacy, len(plan.examples.train)
    if privacy.mechanism == "dp-sgd":
        return privacy.steps, math.ceil(privacy.sampling_rate * examples)
    each = math.ceil(examples / shards / settings.batch_size)
    epochs = privacy.epochs if privacy.mechanism == "pate" else settings.epochs
    return epochs * each * shards, min(settings.batch_size, examples)


def _trial_seconds(model: TextClassifier, texts: Sequence[Text]) -> tuple[float, float]:
    """Return the seconds that one text takes to be read, and to be learnt from; the first time is a warm-up."""
    for _ in range(2):
        started = time.monotonic()
        items = model.encode(texts)
        read = time.monotonic()
        logits = model.logits(items)
        labels = torch.zeros(len(items), dtype=torch.long, device=logits.device)
        nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        trained = time.monotonic()
    return (read - started) / len(texts), (trained - read) / len(texts)
