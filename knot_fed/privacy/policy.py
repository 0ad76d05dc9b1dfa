"""The client's own policy: what may leave, how much of it, and what is never told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from knot_fed.errors import PolicyError
from knot_fed.types import SoftLabels

Limit = Annotated[int, Field(ge=0, strict=True)]


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
    released_in_run: int,
    released_in_life: int,
) -> Release:
    """Let out soft labels as far as the policy allows, or nothing.

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
    released_in_run, released_in_life
        Texts answered before, in this run and ever.

    Raises
    ------
    PolicyError
        If the request goes beyond a limit; nothing is released then.
    """
    check_limits(len(soft_labels), policy=policy, released_in_run=released_in_run, released_in_life=released_in_life)
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
