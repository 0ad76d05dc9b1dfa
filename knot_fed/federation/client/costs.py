"""Estimate the cost of a request for the client's machine, from public texts, before anything is charged."""

import hmac
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from knot_fed.config import TeacherConfig
from knot_fed.errors import PolicyError
from knot_fed.mechanisms import TeacherPlan, mechanism_of
from knot_fed.models import TextClassifier
from knot_fed.privacy.policy import ReleasePolicy
from knot_fed.types import Text

FLOAT_BYTES = 4
TRIAL_TEXTS = 32


@dataclass(frozen=True, slots=True)
class RequestCost:
    """Optimiser steps, teachers, bytes of parameters and answers, and seconds, for a teacher not trained yet."""

    steps: int
    shards: int
    bytes: int
    seconds: float


def estimate_cost(plan: TeacherPlan, model: TextClassifier, texts: Sequence[Text], *, key: bytes) -> RequestCost:
    """Estimate a request by arithmetic, and its seconds by a training step of the untrained model on public texts.

    A refusal must not reveal the number of an owner's examples, so that number is rounded up under the owner's key.
    """
    mechanism = mechanism_of(plan.run.privacy)
    shards = mechanism.teachers(plan.run.privacy)
    train, val = (rounded_up(len(part), key=key) for part in (plan.examples.train, plan.examples.val))
    steps, batch = mechanism.steps(plan.run, train)
    size = FLOAT_BYTES * sum(parameter.numel() for parameter in model.parameters())
    answers = FLOAT_BYTES * len(texts) * len(plan.spec.labels) * shards
    to_read, to_train = _trial_seconds(model, _of_all_lengths(texts))
    if not model.trains:
        return RequestCost(0, 0, size + answers, (to_read + to_train) * len(texts))
    read, trained = train + val + shards * len(texts), steps * batch + mechanism.scorings(plan.run) * val
    return RequestCost(steps, shards, size * shards + answers, to_read * read + to_train * trained)


def check_cost(cost: RequestCost, *, policy: ReleasePolicy) -> None:
    """Refuse a request over a limit; the limit is sent to the peer, the estimate stays in the owner's log."""
    for name, limit, estimate in (
        ("max-steps", policy.max_steps, cost.steps),
        ("max-shards", policy.max_shards, cost.shards),
        ("max-bytes", policy.max_bytes, cost.bytes),
        ("max-seconds", policy.max_seconds, cost.seconds),
    ):
        if limit and estimate > limit:
            raise PolicyError(
                f"the request would take about {estimate:.3g} of {name} = {limit}; ask for less",
                refusal=f"the request would take more than {name} = {limit}; ask for less",
            )


def personal_cost(
    plan: TeacherPlan, model: TextClassifier, texts: Sequence[Text], *, teachers: Sequence[int], key: bytes
) -> RequestCost:
    """Estimate the training of a personal model, and of teachers of `teachers` epochs each that are trained before it.

    Each step trains on a batch of the texts, whose number the server knows, and on as many own examples. The validation
    split is scored before the first epoch and after each.
    """
    settings, personal = plan.run.teacher, plan.run.personal
    steps = personal.epochs * math.ceil(len(texts) / settings.batch_size)
    before = [estimate_cost(_with_epochs(plan, epochs), model, texts, key=key) for epochs in teachers]
    train, val = (rounded_up(len(part), key=key) for part in (plan.examples.train, plan.examples.val))
    to_read, to_train = _trial_seconds(model, _of_all_lengths(texts))
    size = FLOAT_BYTES * sum(parameter.numel() for parameter in model.parameters())
    seconds = to_read * (len(texts) + train + val)
    seconds += to_train * (steps * 2 * settings.batch_size + (personal.epochs + 1) * val)
    return RequestCost(
        sum(cost.steps for cost in before) + steps, 1, sum(cost.bytes for cost in before) + size,
        sum(cost.seconds for cost in before) + seconds,
    )  # fmt: skip


def _with_epochs(plan: TeacherPlan, epochs: int) -> TeacherPlan:
    """Return the plan of one teacher of so many epochs."""
    teacher = plan.run.teacher.model_copy(update={"start": "scratch", "epochs": epochs})
    return replace(plan, run=plan.run.model_copy(update={"teacher": teacher}))


def averaging_cost(settings: TeacherConfig, examples: int, *, key: bytes) -> RequestCost:
    """Estimate one round of federated averaging by its steps; parameters as in `estimate_cost`."""
    steps = settings.epochs * math.ceil(rounded_up(examples, key=key) / settings.batch_size)
    return RequestCost(steps=steps, shards=1, bytes=0, seconds=0.0)


def rounded_up(count: int, *, key: bytes) -> int:
    """Round a number of examples up to a power of two times a secret factor in [1, 2).

    A server that keeps asking learns only in which of these wide ranges the number lies. Without the factor it could
    distinguish 1024 from 1025; with it, one more example changes the range with a probability of 1.44 over their
    number.

    >>> len({rounded_up(count, key=b"secret") for count in range(1000, 1500)}) <= 2
    True
    """
    if not count:
        return 0
    share = int.from_bytes(hmac.digest(key, b"examples in a request's cost", "sha256")[:8]) * 2.0**-64
    return math.ceil(2 ** (math.ceil(math.log2(count) - share) + share))


def _of_all_lengths(texts: Sequence[Text]) -> list[Text]:
    """Return a few texts, evenly from the shortest to the longest, since a server chooses their order."""
    by_length = sorted(texts, key=lambda text: len(text) if isinstance(text, str) else sum(map(len, text)))
    places = np.linspace(len(texts) - 1, 0, min(len(texts), TRIAL_TEXTS)).round().astype(int)
    return [by_length[place] for place in places]


def _trial_seconds(model: TextClassifier, texts: Sequence[Text]) -> tuple[float, float]:
    """Return the seconds to encode one text, and to train on it; the first of two passes is a warm-up."""
    for _ in range(2):
        started = time.monotonic()
        items = model.encode(texts)
        read = time.monotonic()
        logits = model.logits(items)
        labels = torch.zeros(len(items), dtype=torch.long, device=logits.device)
        loss = nn.functional.cross_entropy(logits, labels)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)  # a GPU is only told to start
        trained = time.monotonic()
    return (read - started) / len(texts), (trained - read) / len(texts)
