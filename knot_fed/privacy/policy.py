"""A client's release policy: what may leave, how much of it, under which guarantee, and what a request may cost."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from knot_fed.config import LEAST_DELTA, LEAST_EPSILON, MOST_DELTA, MOST_EPSILON, MechanismName
from knot_fed.errors import PolicyError

MOST = 10**12
Limit = Annotated[int, Field(ge=0, le=MOST, strict=True)]
Multiplier = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


def _solvable(epsilon: float) -> float:
    if epsilon and not LEAST_EPSILON <= epsilon <= MOST_EPSILON:
        raise PydanticCustomError("epsilon", f"use 0 for no limit, or {LEAST_EPSILON:g} to {MOST_EPSILON:g}")
    return epsilon


Budget = Annotated[float, Field(ge=0, le=MOST_EPSILON, allow_inf_nan=False), AfterValidator(_solvable)]


class ReleasePolicy(BaseModel):
    """What one client releases; its owner writes it, and no server can change it. A limit of 0 means no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=lambda field: field.replace("_", "-"))

    max_texts_per_run: Limit = 0  # texts whose soft labels may leave
    max_texts_in_life: Limit = 0
    max_sums_in_life: Limit = 0  # secure sums that one text may ever enter; in one run it enters at most one
    share_example_counts: bool = True  # of training examples, by which the server can weigh
    # The score per text: the confidence, computed from the prediction bias, which never leaves; the density, or whether
    # it is high, which reveals what the private texts are about; the training loss; or the reliability.
    share_confidences: bool = True
    # Teachers may start from the student, or a personal model, that the server has sent or shaped: crafted parameters
    # can make soft labels reveal more.
    accept_student: bool = False
    take_part_in_evaluation: bool = True  # on the private test split, of which the metrics leave
    evaluate_without_guarantee: bool = False  # even with `require` or a limit on epsilon, which do not cover metrics
    share_parameters: bool = False  # trained on private examples, as federated averaging needs
    accept_consensus: bool = True  # soft labels from the server, which the owner's personal model distils
    max_evaluations_per_run: Limit = 50  # the metrics of enough students reveal rows of the test split
    max_evaluations_in_life: Limit = 200
    least_test_examples: Annotated[int, Field(ge=1, le=MOST, strict=True)] = 20  # for metrics to leave
    # Decimal places of metrics, and significant digits of the number of test examples; 0: not rounded.
    metric_digits: Annotated[int, Field(ge=0, le=15, strict=True)] = 2
    # SHA-256 of the only transfer set that may be labelled; empty: any, but only one per run.
    transfer_fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    # `hf:...` and `package.module:function` that a server may request besides the node's own model.
    models: tuple[str, ...] = ()
    require: tuple[MechanismName, ...] = ()  # the run must use one of these mechanisms; empty: none required
    max_epsilon: Budget = 0.0  # budget for all releases of this client ever, at this delta
    delta: Annotated[float, Field(ge=LEAST_DELTA, le=MOST_DELTA, allow_inf_nan=False)] = 1e-5
    max_epsilon_per_run: Budget = 0.0  # a run that asks for a larger epsilon gets this one
    unit: Literal["record", "client"] = "record"  # what `max-epsilon` protects; `client` by `gaussian` only
    least_noise: Multiplier = 0.0  # lower bound on the noise multiplier (standard deviation over sensitivity)
    require_secure_sum: bool = False  # soft labels leave only masked, inside a secure sum
    least_clients: Annotated[int, Field(ge=2, le=1000, strict=True)] = 3  # in a secure sum, including this one
    max_steps: Limit = 100_000  # estimated optimiser steps of one request
    max_shards: Limit = 100  # teachers of `pate`
    max_bytes: Limit = 4_000_000_000  # of parameters and answers
    max_seconds: Limit = 86_400

    @property
    def has_budget(self) -> bool:
        """Whether the owner requires a guarantee."""
        return bool(self.require or self.max_epsilon or self.max_epsilon_per_run)

    @property
    def limits_cost(self) -> bool:
        """Whether the cost of a request is limited, so that it must be estimated."""
        return bool(self.max_steps or self.max_shards or self.max_bytes or self.max_seconds)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> "ReleasePolicy":
        """Parse the content of a policy file.

        Raises
        ------
        PolicyError
            If a key is unknown or a value out of range; the message names both.
        """
        try:
            return cls.model_validate(dict(mapping))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            known = ", ".join(field.replace("_", "-") for field in cls.model_fields)
            raise PolicyError(f"release policy: {key}: {first['msg'].lower()}; known keys: {known}") from None


STUDY = ReleasePolicy().model_copy(
    update=dict.fromkeys(("max_evaluations_per_run", "max_evaluations_in_life", "metric_digits"), 0)
    | dict.fromkeys(("max_steps", "max_shards", "max_bytes", "max_seconds"), 0)
    | {"least_test_examples": 1, "delta": MOST_DELTA, "accept_student": True, "evaluate_without_guarantee": True}
)
"""Policy of virtual clients, which have no owner: exact metrics of all models, any delta, no limit on cost."""
