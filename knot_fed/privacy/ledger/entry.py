"""One line of the client's ledger."""

from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from knot_fed.config import MECHANISMS
from knot_fed.errors import PrivacyError
from knot_fed.privacy.accounting import NoiseEvent

Count = Annotated[int, Field(ge=0, le=10**12)]
Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Name = Annotated[str, Field(max_length=64)]


class LedgerEntry(BaseModel):
    """What one reply reveals, or what a run or a state folder is bound to."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: Name = ""  # of the federation that asked
    round: Count = 0
    texts: Count = 0  # texts answered; 0: no soft labels left
    fresh: Count = 0  # those of them that had a new cost
    mechanism: Name = "none"  # the claim: of the teacher for DP-SGD, else of this request
    unit: Name = "none"
    epsilon: Annotated[float, Field(ge=0)] = float("inf")  # infinite without a guarantee
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    answer: Digest = ""  # digest of a DP-SGD teacher or a set of noisy rows; the same has no new cost
    noise: NoiseEvent | None = None  # of all texts of the reply, for accounting; None: no guarantee
    keys: Digest = ""  # digest of the transfer set's text keys, of which `start` to `stop` were answered
    start: Count = 0
    stop: Count = 0
    summed: bool = False  # whether the rows entered a secure sum
    readings: Digest = ""  # of such rows: digest of the keys of what the teacher reads of each text
    evaluations: Count = 0  # students evaluated
    parameters: Count = 0  # sets of parameters sent, trained without a guarantee
    fingerprint: Digest = ""  # transfer set that the run is bound to from here on
    secret: Digest = ""  # digest of the state folder's secret
    takes_back: Count = 0  # number of an earlier line, from 1, after which nothing was computed; 0: none
    unknown: bool = False  # whether lines before this one were lost, which may have recorded any release

    def spent(self, unit: str) -> NoiseEvent | None:
        """Return the cost of the fresh texts for one `record` or the whole `client`; None: no such guarantee."""
        if self.noise is None or (unit == "client" and self.unit != "client"):
            return None
        return self.noise if self.of_teacher else NoiseEvent(self.noise.noise_multiplier, max(self.fresh, 1))

    @property
    def of_teacher(self) -> bool:
        """Whether the noise belongs to a teacher; else, and for unknown mechanisms, to each text."""
        facts = MECHANISMS.get(self.mechanism)
        return facts is not None and facts.noise_on == "teacher"

    def without(self, lost: Collection[str]) -> "LedgerEntry":
        """Return the entry without the digests of lost keys."""
        gone = {"keys": "", "start": 0, "stop": 0} if self.keys in lost else {}
        return self.model_copy(update=gone | ({"readings": ""} if self.readings in lost else {})) if lost else self

    def to_json(self) -> str:
        """Return the fields that differ from their defaults."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, line: str) -> "LedgerEntry | None":
        """Parse the result of `to_json`; None for anything else."""
        try:
            return cls.model_validate_json(line)
        except (ValidationError, PrivacyError):
            return None
