"""What a client's policy refuses: each check raises PolicyError in one sentence, or says nothing."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from knot_fed.config import PrivacyConfig
from knot_fed.errors import PolicyError
from knot_fed.privacy.accounting import NoiseEvent, composed_epsilon
from knot_fed.privacy.policy import ReleasePolicy
from knot_fed.types import Metrics, TeacherAnswer

EpsilonLimit: TypeAlias = Literal["max-epsilon", "max-epsilon-per-run"]
ROUNDING = 1e-6


def check_parameters_may_leave(policy: ReleasePolicy) -> None:
    """Refuse to take part in federated averaging unless the owner allows all that it tells.

    Raises
    ------
    PolicyError
        If trained parameters, or the example count that weighs them, have to stay.
    """
    if policy.has_budget or policy.require_secure_sum:
        raise PolicyError("the policy asks for a guarantee and parameters have none; keep to soft labels")
    for key, allowed in (
        ("share-parameters", policy.share_parameters),
        ("share-example-counts", policy.share_example_counts),
    ):
        if not allowed:
            raise PolicyError(f"the policy keeps this client out of federated averaging; set {key} to join")


def check_soft_labels_may_leave_alone(policy: ReleasePolicy) -> None:
    """Refuse to send soft labels that the server can read, where the owner asks for a secure sum.

    Raises
    ------
    PolicyError
        If the policy says `require-secure-sum`.
    """
    if policy.require_secure_sum:
        raise PolicyError("the policy lets soft labels leave only in a secure sum; set privacy.secure-sum = true")


def check_scheme_may_enter_sum(scheme: str, *, policy: ReleasePolicy) -> None:
    """Refuse to put scores that have to stay into the weights of a secure sum, which tells their total.

    Raises
    ------
    PolicyError
        If example counts or confidences have to stay and the scheme weighs by them.
    """
    kept = "share-example-counts" if scheme == "size" else "share-confidences"
    allowed = policy.share_example_counts if scheme == "size" else policy.share_confidences
    if scheme not in ("uniform", "certainty") and not allowed:
        raise PolicyError(
            f"weights.scheme = {scheme!r} adds scores up that the policy keeps; use uniform weights, or set {kept}"
        )


def release_answer(answer: TeacherAnswer, *, policy: ReleasePolicy) -> TeacherAnswer:
    """Keep what the policy keeps of one answer: zeros leave in its place; `check_limits` has let it be computed."""
    return TeacherAnswer(
        soft_labels=answer.soft_labels.astype(np.float32),
        scores=answer.scores if policy.share_confidences else np.zeros_like(answer.scores),
        examples=answer.examples if policy.share_example_counts else 0,
    )


def check_limits(texts: int, *, policy: ReleasePolicy, released_in_run: float, released_in_life: float) -> None:
    """Refuse a request for more texts than the policy allows.

    Raises
    ------
    PolicyError
        If a limit would be passed; the message names the limit and how much of it is used.
    """
    limits = (
        ("max-texts-per-run", policy.max_texts_per_run, released_in_run),
        ("max-texts-in-life", policy.max_texts_in_life, released_in_life),
    )
    for name, limit, before in limits:
        if limit and before + texts > limit:
            raise PolicyError(f"{texts} texts asked with {before:.0f} of {name} = {limit} used; ask for fewer texts")


def check_sums(in_run: float, in_life: float, *, policy: ReleasePolicy) -> None:
    """Refuse to enter a text into a secure sum more often than once in a run, or than the policy allows.

    Two sums over the same text that differ by clients or weights tell single soft labels.

    Parameters
    ----------
    in_run, in_life
        How often the text of the request that entered most sums has entered one so far; infinite where lines of the
        ledger were lost.

    Raises
    ------
    PolicyError
        With the limit.
    """
    if in_run:
        raise PolicyError(
            "asks for texts that this client has entered in a secure sum of this run, or that its teacher reads like"
            " such; ask for others"
        )
    limit = policy.max_sums_in_life
    if limit and in_life >= limit:
        raise PolicyError(
            f"asks for texts that entered {in_life:g} secure sums, max-sums-in-life = {limit}; ask for others"
        )


def check_evaluations(in_run: float, in_life: float, *, policy: ReleasePolicy) -> None:
    """Refuse to measure one more student than the policy allows.

    Parameters
    ----------
    in_run, in_life
        Students measured so far.

    Raises
    ------
    PolicyError
        If the owner keeps out of evaluation, or a limit is reached.
    """
    if not policy.take_part_in_evaluation:
        raise PolicyError("the policy keeps this client out of evaluation; set take-part-in-evaluation to join")
    if policy.has_budget and not policy.evaluate_without_guarantee:
        raise PolicyError(
            "the policy asks for a guarantee, which metrics do not have; set evaluate-without-guarantee to tell them"
        )
    limits = (
        ("max-evaluations-per-run", policy.max_evaluations_per_run, in_run),
        ("max-evaluations-in-life", policy.max_evaluations_in_life, in_life),
    )
    for name, limit, before in limits:
        if limit and before >= limit:
            raise PolicyError(f"{name} = {limit} is used up; ask for fewer evaluations")


def check_test_size(examples: int, *, policy: ReleasePolicy) -> None:
    """Refuse metrics of so few test examples that they tell single ones.

    Raises
    ------
    PolicyError
        If there are fewer than the owner asks for; the message does not say how many.
    """
    if examples < policy.least_test_examples:
        raise PolicyError(
            f"fewer test examples than least-test-examples = {policy.least_test_examples}; no metrics leave"
        )


def rounded_metrics(metrics: Metrics, *, diameter: float, policy: ReleasePolicy) -> Metrics:
    """Round metrics as the owner tells them: `metric-digits` decimal places, and as many digits of the count.

    Parameters
    ----------
    metrics
        As they were measured.
    diameter
        Of the label space, the largest that SD and W1 may be. A server names the labels' coordinates, so in a space
        of tens, hundreds or more these two have as many places fewer.
    policy
        The owner's.
    """
    count, digits = metrics.examples if policy.share_example_counts else 0, policy.metric_digits
    if not digits:
        return replace(metrics, examples=count)
    places = digits - max(0, math.floor(math.log10(max(diameter, 1.0))))
    told = {name: float(value) for name, value in metrics.to_mapping().items() if name != "examples"}
    rounded = {name: round(value, digits) for name, value in told.items()}
    rounded |= {name: min(round(told[name], places), diameter) for name in ("sd", "sd_calibrated", "w1")}
    return Metrics(**rounded, examples=round(count, digits - len(str(count))))


def check_transfer_set(fingerprint: str, *, bound: str, policy: ReleasePolicy) -> None:
    """Refuse a transfer set other than the one that the owner has pinned, or that this run began with.

    A server that asks for other texts in each round searches for those that tell most of the private ones.

    Parameters
    ----------
    fingerprint
        What is asked for.
    bound
        What this run began with; empty: nothing yet.
    policy
        The owner's policy.

    Raises
    ------
    PolicyError
        If it is another.
    """
    if policy.transfer_fingerprint and fingerprint != policy.transfer_fingerprint:
        raise PolicyError("the policy pins another transfer set; ask for that one, or change transfer-fingerprint")
    if bound and fingerprint != bound:
        raise PolicyError("another transfer set than this run began with is asked for; start another run for it")


def stricter_settings(asked: PrivacyConfig, policy: ReleasePolicy) -> PrivacyConfig:
    """Return what the server asks, made as strict as the owner wants: the smaller epsilon and the smaller delta.

    Raises
    ------
    PolicyError
        If the run uses none of the mechanisms that the owner requires; nothing is computed then.
    """
    if policy.require and asked.mechanism not in policy.require:
        raise PolicyError(
            f"privacy.mechanism = {asked.mechanism!r} is less than the policy asks; use {' or '.join(policy.require)}"
        )
    epsilon = min(asked.epsilon, policy.max_epsilon_per_run or math.inf)
    return asked.model_copy(update={"epsilon": epsilon, "delta": min(asked.delta, policy.delta)})


def check_epsilon(
    before: Sequence[NoiseEvent | None],
    after: Sequence[NoiseEvent | None],
    *,
    policy: ReleasePolicy,
    limit: EpsilonLimit,
) -> None:
    """Refuse a release that would bring the client beyond a limit on epsilon.

    Parameters
    ----------
    before, after
        What was released so far, in life or in this run, and what would be then; None: without a guarantee for the
        policy's unit.
    policy
        The owner's.
    limit
        Which of its limits.

    Raises
    ------
    PolicyError
        If the composition of all of them costs more; the message says how much is spent.
    """
    most = policy.max_epsilon if limit == "max-epsilon" else policy.max_epsilon_per_run
    if not most:
        return
    then = life_epsilon(after, policy.delta)
    if then > most * (1 + ROUNDING):
        raise PolicyError(
            f"this release would bring epsilon for each {policy.unit} from {life_epsilon(before, policy.delta):.3g} to"
            f" {then:.3g} at delta {policy.delta:g}, beyond {limit} = {most:g}; ask for a smaller privacy.epsilon"
        )


def life_epsilon(events: Sequence[NoiseEvent | None], delta: float) -> float:
    """Return what events cost together; infinite, if one of them has no guarantee."""
    known = [event for event in events if event is not None]
    return composed_epsilon(known, delta) if len(known) == len(events) else math.inf
