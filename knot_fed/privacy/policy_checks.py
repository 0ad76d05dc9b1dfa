"""Checks of a client's policy; each raises PolicyError with one sentence, or does nothing."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from knot_fed.config import PrivacyConfig
from knot_fed.config.choices import scheme_reads
from knot_fed.errors import PolicyError
from knot_fed.privacy.accounting import NoiseEvent, composed_epsilon
from knot_fed.privacy.policy import ReleasePolicy
from knot_fed.types import Metrics, TeacherAnswer

Spent: TypeAlias = Sequence[NoiseEvent | None]
"""Releases; None stands for one without a guarantee for the policy's unit."""
ROUNDING = 1e-6
Budgeted: TypeAlias = Literal["max-epsilon", "max-epsilon-per-run"]
BUDGETS: tuple[Budgeted, ...] = ("max-epsilon", "max-epsilon-per-run")


def check_parameters_may_leave(policy: ReleasePolicy) -> None:
    """Refuse federated averaging unless the owner shares trained parameters and the example count that weighs them."""
    if policy.has_budget or policy.require_secure_sum:
        raise PolicyError("the policy asks for a guarantee and parameters have none; use soft labels instead")
    for key, allowed in (
        ("share-parameters", policy.share_parameters),
        ("share-example-counts", policy.share_example_counts),
    ):
        if not allowed:
            raise PolicyError(f"the policy keeps this client out of federated averaging; set {key} to join")


def check_soft_labels_may_leave_alone(policy: ReleasePolicy) -> None:
    """Refuse to send soft labels that the server can read if the policy sets `require-secure-sum`."""
    if policy.require_secure_sum:
        raise PolicyError("the policy lets soft labels leave only in a secure sum; set privacy.secure-sum = true")


def check_student_accepted(policy: ReleasePolicy) -> None:
    """Refuse a teacher whose start a server has sent or shaped, unless the policy sets `accept-student`."""
    if not policy.accept_student:
        raise PolicyError(
            "the policy starts no teacher from what a server sends; set accept-student = true, or teacher.start ="
            " 'scratch'"
        )


def check_scheme_may_enter_sum(scheme: str, *, policy: ReleasePolicy) -> None:
    """Refuse to weigh a secure sum by counts or scores that must not leave, since the sum reveals their total."""
    reads = scheme_reads(scheme)
    key, allowed = "share-confidences", policy.share_confidences
    if reads == "examples":
        key, allowed = "share-example-counts", policy.share_example_counts
    if reads != "nothing" and not allowed:
        raise PolicyError(
            f"weights.scheme = {scheme!r} adds up scores that the policy withholds; use uniform weights, or set {key}"
        )


def release_answer(answer: TeacherAnswer, *, policy: ReleasePolicy) -> TeacherAnswer:
    """Replace what the policy withholds by zeros."""
    return TeacherAnswer(
        soft_labels=answer.soft_labels.astype(np.float32),
        scores=answer.scores if policy.share_confidences else np.zeros_like(answer.scores),
        examples=answer.examples if policy.share_example_counts else 0,
    )


def check_limits(texts: int, *, policy: ReleasePolicy, released_in_run: float, released_in_life: float) -> None:
    """Refuse a request for more texts than the policy allows; the message names the limit and its use."""
    for name, limit, before in (
        ("max-texts-per-run", policy.max_texts_per_run, released_in_run),
        ("max-texts-in-life", policy.max_texts_in_life, released_in_life),
    ):
        if limit and before + texts > limit:
            raise PolicyError(f"{texts} texts asked with {before:.0f} of {name} = {limit} used; ask for fewer texts")


def check_sums(in_run: float, in_life: float, *, policy: ReleasePolicy) -> None:
    """Refuse to enter a text into a secure sum twice in a run, or more often than the policy allows.

    Two sums over the same text that differ in clients or weights reveal single soft labels. `in_run` and `in_life` are
    the largest numbers of sums that a text of the request has entered so far; infinite if ledger lines were lost.
    """
    if in_run:
        raise PolicyError(
            "asks for texts that this client has entered in a secure sum of this run, or that its teacher reads like"
            " one of them; ask for others"
        )
    limit = policy.max_sums_in_life
    if limit and in_life >= limit:
        raise PolicyError(
            f"asks for texts that entered {in_life:g} secure sums, max-sums-in-life = {limit}; ask for others"
        )


def check_consensus_is_accepted(policy: ReleasePolicy) -> None:
    """Refuse to distil a server's soft labels into a personal model if the owner wants none."""
    if not policy.accept_consensus:
        raise PolicyError("the policy accepts no consensus, so there is no personal model; set accept-consensus")


def check_evaluations(in_run: float, in_life: float, *, policy: ReleasePolicy, models: int = 1) -> None:
    """Refuse to evaluate `models` more than the policy allows, given the students and models evaluated so far."""
    if not policy.take_part_in_evaluation:
        raise PolicyError("the policy keeps this client out of evaluation; set take-part-in-evaluation to join")
    if policy.has_budget and not policy.evaluate_without_guarantee:
        raise PolicyError(
            "the policy asks for a guarantee, which metrics do not have; set evaluate-without-guarantee to share them"
        )
    for name, limit, before in (
        ("max-evaluations-per-run", policy.max_evaluations_per_run, in_run),
        ("max-evaluations-in-life", policy.max_evaluations_in_life, in_life),
    ):
        if limit and before + models > limit:
            raise PolicyError(f"{name} = {limit}: {before:.0f} used, {models} more needed; ask for fewer evaluations")


def check_own_metrics(*, guaranteed: bool, policy: ReleasePolicy) -> None:
    """Refuse metrics of models that are trained without noise beside answers that have a guarantee.

    A student's metrics are computed from the answers, so they show no more of the training examples; these models read
    the examples themselves.
    """
    if guaranteed and not policy.evaluate_without_guarantee:
        raise PolicyError(
            "the run has a guarantee, which metrics of a model trained without noise do not have; set"
            " evaluate-without-guarantee to share them"
        )


def check_test_size(examples: int, *, policy: ReleasePolicy) -> None:
    """Refuse metrics of so few test examples that they reveal single ones; the message does not count them."""
    if examples < policy.least_test_examples:
        raise PolicyError(
            f"fewer test examples than least-test-examples = {policy.least_test_examples}; no metrics leave"
        )


def rounded_metrics(metrics: Metrics, *, diameter: float, policy: ReleasePolicy) -> Metrics:
    """Round metrics to `metric-digits` decimal places, and the number of examples to as many significant digits.

    `diameter` is that of the label space, the maximum of SD and W1. The server chooses the labels' coordinates, so in a
    space of tens or hundreds these two get one or two decimal places fewer.
    """
    count, digits = metrics.examples if policy.share_example_counts else 0, policy.metric_digits
    if not digits:
        return replace(metrics, examples=count)
    places = digits - max(0, math.floor(math.log10(max(diameter, 1.0))))
    exact = {name: float(value) for name, value in metrics.to_mapping().items() if name != "examples"}
    rounded = {name: round(value, digits) for name, value in exact.items()}
    rounded |= {name: min(round(exact[name], places), diameter) for name in ("sd", "sd_calibrated", "w1")}
    return Metrics(**rounded, examples=round(count, digits - len(str(count))))


def check_transfer_set(fingerprint: str, *, bound: str, policy: ReleasePolicy) -> None:
    """Refuse a transfer set other than the one that the policy pins, or that this run started with (`bound`, or empty).

    A server that could change the texts each round would search for those that reveal most about the private ones.
    """
    if policy.transfer_fingerprint and fingerprint != policy.transfer_fingerprint:
        raise PolicyError("the policy pins another transfer set; ask for that one, or change transfer-fingerprint")
    if bound and fingerprint != bound:
        raise PolicyError(
            "the server asks for another transfer set than at the start of this run; start another run for it"
        )


def tightened_settings(asked: PrivacyConfig, policy: ReleasePolicy) -> PrivacyConfig:
    """Return the requested settings with the smaller epsilon and delta of request and policy.

    Raises PolicyError if the run uses none of the mechanisms that the policy requires.
    """
    if policy.require and asked.mechanism not in policy.require:
        raise PolicyError(
            f"privacy.mechanism = {asked.mechanism!r} is less than the policy asks; use {' or '.join(policy.require)}"
        )
    epsilon = min(asked.epsilon, policy.max_epsilon_per_run or math.inf)
    return asked.model_copy(update={"epsilon": epsilon, "delta": min(asked.delta, policy.delta)})


def check_epsilon(before: Spent, after: Spent, *, policy: ReleasePolicy, limit: Budgeted) -> None:
    """Refuse a release that would exceed a limit on epsilon, given all releases without and with it."""
    most = policy.max_epsilon if limit == "max-epsilon" else policy.max_epsilon_per_run
    if not most:
        return
    then = total_epsilon(after, policy.delta)
    if then > most * (1 + ROUNDING):
        raise PolicyError(
            f"this release would bring epsilon for each {policy.unit} from {total_epsilon(before, policy.delta):.3g} to"
            f" {then:.3g} at delta {policy.delta:g}, beyond {limit} = {most:g}; ask for a smaller privacy.epsilon"
        )


def total_epsilon(events: Spent, delta: float) -> float:
    """Return epsilon of the composition, or infinity if an event has no guarantee."""
    known = [event for event in events if event is not None]
    return composed_epsilon(known, delta) if len(known) == len(events) else math.inf
