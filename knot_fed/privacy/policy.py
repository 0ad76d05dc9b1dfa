"""The client's own policy: what may leave, how much of it, what is never told, and what a request may cost."""

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
    max_sums_in_life
        Secure sums that one text may enter ever, 0: no limit; in one run it enters one, whatever this says.
    take_part_in_evaluation
        Whether the student is measured on the private test split, and the metrics told.
    evaluate_without_guarantee
        Whether that is so beside `require`, `max-epsilon` or `max-epsilon-per-run` too, none of which covers metrics.
    share_parameters
        Whether parameters trained on the private examples may leave, as federated averaging needs them.
    max_evaluations_per_run, max_evaluations_in_life
        Students measured on the private test split in one run, and ever, 0: no limit; metrics of enough students tell
        its rows.
    least_test_examples
        Fewest examples of the test split on which metrics are told.
    metric_digits
        Decimal places that metrics are rounded to, and the count of test examples to as many significant digits; 0:
        not rounded.
    transfer_fingerprint
        SHA-256 of the one transfer set that may be labelled; empty: any, but one in each run.
    models
        Names of pretrained models (`hf:...`) and of functions that build a model (`package.module:function`), which a
        server may name beside the node's own.
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
    max_steps, max_shards, max_bytes, max_seconds
        What one request may cost this machine, as estimated before it is charged: optimiser steps, teachers of `pate`,
        bytes of parameters and answers, and seconds; 0: no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=lambda field: field.replace("_", "-"))

    max_texts_per_run: Limit = 0
    max_texts_in_life: Limit = 0
    max_sums_in_life: Limit = 0
    share_example_counts: bool = True
    share_confidences: bool = True
    take_part_in_evaluation: bool = True
    evaluate_without_guarantee: bool = False
    share_parameters: bool = False
    max_evaluations_per_run: Limit = 50
    max_evaluations_in_life: Limit = 200
    least_test_examples: Annotated[int, Field(ge=1, le=MOST, strict=True)] = 20
    metric_digits: Annotated[int, Field(ge=0, le=15, strict=True)] = 2
    transfer_fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    models: tuple[str, ...] = ()
    require: tuple[MechanismName, ...] = ()
    max_epsilon: Budget = 0.0
    delta: Annotated[float, Field(ge=LEAST_DELTA, le=MOST_DELTA, allow_inf_nan=False)] = 1e-5
    max_epsilon_per_run: Budget = 0.0
    unit: Literal["record", "client"] = "record"
    least_noise: Multiplier = 0.0
    require_secure_sum: bool = False
    least_clients: Annotated[int, Field(ge=2, le=1000, strict=True)] = 3
    max_steps: Limit = 100_000
    max_shards: Limit = 100
    max_bytes: Limit = 4_000_000_000
    max_seconds: Limit = 86_400

    @property
    def has_budget(self) -> bool:
        """Whether the owner asks for a guarantee of what leaves."""
        return bool(self.require or self.max_epsilon or self.max_epsilon_per_run)

    @property
    def limits_cost(self) -> bool:
        """Whether a request's cost has a limit, so that it is estimated."""
        return bool(self.max_steps or self.max_shards or self.max_bytes or self.max_seconds)

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


STUDY = ReleasePolicy().model_copy(
    update={
        "max_evaluations_per_run": 0,
        "max_evaluations_in_life": 0,
        "least_test_examples": 1,
        "delta": MOST_DELTA,
        "metric_digits": 0,
        "max_steps": 0,
        "max_shards": 0,
        "max_bytes": 0,
        "max_seconds": 0,
    }
)
"""Of virtual clients, which have no owner: a study measures exactly, at the delta it asks, on its own machine."""
