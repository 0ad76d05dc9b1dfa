"""The client's own policy: what may leave, how much of it, and what is never told."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from knot_fed.config import Mechanism, PrivacyConfig
from knot_fed.errors import PolicyError
from knot_fed.privacy.accounting import NoiseEvent, composed_epsilon
from knot_fed.types import SoftLabels

EpsilonLimit: TypeAlias = Literal["max-epsilon", "max-epsilon-per-run"]
ROUNDING = 1e-6
Limit = Annotated[int, Field(ge=0, strict=True)]
Budget = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ReleasePolicy(BaseModel):
    """What one client lets out; the owner writes it, and no server can change it.

    Parameters
    ----------
    max_texts_per_run, max_texts_in_life
        Soft labels that may leave in one run, and ever, counted in texts; 0: no limit.
    share_example_counts
        Whether the number of training examples is told; the server then weighs by size.
    share_confidences
        Whether the score per text is told: the confidence, which needs the prediction bias, which itself never leaves;
        or the density, which tells what the private texts are about.
    take_part_in_evaluation
        Whether the student is measured on the private test split, and the metrics told.
    share_parameters
        Whether parameters trained on the private examples may leave, as federated averaging needs them.
    max_evaluations_per_run
        Students measured on the private test split in one run, 0: no limit; metrics of enough students tell its rows.
    transfer_fingerprint
        SHA-256 of the one transfer set that may be labelled; empty: any, but one in each run.
    models
        Names of pretrained models (`hf:...`) that a server may name, beside the node's own.
    require
        Mechanisms of `privacy.mechanism`, one of which the run must use; empty: none is needed.
    max_epsilon, delta
        Most that all releases of this client's life may cost together, at this delta; 0: no limit.
    max_epsilon_per_run
        Most that one run may spend; a run that asks for a larger epsilon gets this one. 0: no limit.
    unit
        What `max-epsilon` protects: one `record`, or the whole `client`, which only `gaussian` does.
    least_noise
        Least noise multiplier (standard deviation over sensitivity), whatever the epsilon.
    require_secure_sum
        Whether soft labels leave only inside a secure sum, masked.
    least_clients
        Fewest clients, this one included, whose soft labels a secure sum adds up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=lambda field: field.replace("_", "-"))

    max_texts_per_run: Limit = 0
    max_texts_in_life: Limit = 0
    share_example_counts: bool = True
    share_confidences: bool = True
    take_part_in_evaluation: bool = True
    share_parameters: bool = False
    max_evaluations_per_run: Limit = 50
    transfer_fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    models: tuple[str, ...] = ()
    require: tuple[Mechanism, ...] = ()
    max_epsilon: Budget = 0.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    max_epsilon_per_run: Budget = 0.0
    unit: Literal["record", "client"] = "record"
    least_noise: Budget = 0.0
    require_secure_sum: bool = False
    least_clients: Annotated[int, Field(ge=2, strict=True)] = 3

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> "ReleasePolicy":
        """Parse a policy file's content.

        Raises
        ------
        PolicyError
            If a key is unknown or a value out of range; the message names key and rule.
        """
        try:
            return cls.model_validate(dict(mapping))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            known = ", ".join(field.replace("_", "-") for field in cls.model_fields)
            raise PolicyError(f"release policy: {key}: {first['msg'].lower()}; known keys: {known}") from None


def check_parameters_may_leave(policy: ReleasePolicy) -> None:
    """Refuse to take part in federated averaging unless the owner allows all that it tells.

    Raises
    ------
    PolicyError
        If trained parameters, or the example count that weighs them, have to stay.
    """
    if policy.require or policy.require_secure_sum:
        raise PolicyError("the policy requires a privacy mechanism and parameters have none; keep to soft labels")
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


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """What leaves the client in one reply; None where the policy keeps it."""

    soft_labels: SoftLabels
    confidence: Float[np.ndarray, "examples"] | None
    examples: int | None


def release_soft_labels(
    soft_labels: SoftLabels,
    *,
    confidence: Float[np.ndarray, "examples"],
    examples: int,
    policy: ReleasePolicy,
) -> Release:
    """Keep what the policy keeps of one answer; `check_limits` has let it be computed.

    Parameters
    ----------
    soft_labels
        The teacher's answer, one row for each text asked.
    confidence
        Per-text confidence.
    examples
        Number of training examples.
    policy
        The owner's policy.
    """
    return Release(
        soft_labels=soft_labels.astype(np.float32),
        confidence=confidence if policy.share_confidences else None,
        examples=examples if policy.share_example_counts else None,
    )


def check_limits(texts: int, *, policy: ReleasePolicy, released_in_run: int, released_in_life: int) -> None:
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
            raise PolicyError(f"{texts} texts asked with {before} of {name} = {limit} used; ask for fewer texts")


def check_evaluations(evaluated_in_run: int, *, policy: ReleasePolicy) -> None:
    """Refuse to measure one more student than the policy allows.

    Raises
    ------
    PolicyError
        If the owner keeps out of evaluation, or the limit is reached.
    """
    if not policy.take_part_in_evaluation:
        raise PolicyError("the policy keeps this client out of evaluation; set take-part-in-evaluation to join")
    limit = policy.max_evaluations_per_run
    if limit and evaluated_in_run >= limit:
        raise PolicyError(f"max-evaluations-per-run = {limit} is used up; ask for fewer evaluations")


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
    before: Sequence[NoiseEvent | None], new: NoiseEvent | None, *, policy: ReleasePolicy, limit: EpsilonLimit
) -> None:
    """Refuse a release that would bring the client beyond a limit on epsilon.

    Parameters
    ----------
    before, new
        What was released so far, in life or in this run, and what would be; None: without a guarantee for the
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
    after = life_epsilon([*before, new], policy.delta)
    if after > most * (1 + ROUNDING):
        raise PolicyError(
            f"this release would bring epsilon for each {policy.unit} from {life_epsilon(before, policy.delta):.3g} to"
            f" {after:.3g} at delta {policy.delta:g}, beyond {limit} = {most:g}; ask for a smaller privacy.epsilon"
        )


def life_epsilon(events: Sequence[NoiseEvent | None], delta: float) -> float:
    """Return what events cost together; infinite, if one of them has no guarantee."""
    known = [event for event in events if event is not None]
    return composed_epsilon(known, delta) if len(known) == len(events) else math.inf
