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
    """What one reply tells: texts labelled or a student evaluated, or what a run or a state folder is bound to.

    Parameters
    ----------
    run, round
        Of the federation that asked.
    texts, fresh
        How many it was answered, and how many of them cost something new; entries without texts tell no soft labels.
    mechanism, unit, epsilon, delta
        The claim: of the teacher for DP-SGD, else of this request. Without a guarantee epsilon is infinite.
    answer
        Digest of what was released: of a DP-SGD teacher, or of a set of noisy rows. The same again costs nothing new.
    noise
        What accounting reads, for all texts of the reply; None: no guarantee.
    keys, start, stop
        Digest of the transfer set's text keys, and the slice that was answered.
    summed
        Whether the rows entered a secure sum.
    readings
        Of rows that did: digest of the keys of what the teacher reads of each text.
    evaluations
        Students measured.
    parameters
        Sets of parameters, trained without a guarantee.
    fingerprint
        Of the transfer set that the run is bound to from here on.
    secret
        Digest of the state folder's secret, which is bound to this ledger.
    takes_back
        Number of an earlier line, from 1, after which nothing was computed; 0: of none.
    unknown
        Whether lines before this one were lost, which may have told of any release.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: Name = ""
    round: Count = 0
    texts: Count = 0
    fresh: Count = 0
    mechanism: Name = "none"
    unit: Name = "none"
    epsilon: Annotated[float, Field(ge=0)] = float("inf")
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    answer: Digest = ""
    noise: NoiseEvent | None = None
    keys: Digest = ""
    start: Count = 0
    stop: Count = 0
    summed: bool = False
    readings: Digest = ""
    evaluations: Count = 0
    parameters: Count = 0
    fingerprint: Digest = ""
    secret: Digest = ""
    takes_back: Count = 0
    unknown: bool = False

    def spent(self, unit: str) -> NoiseEvent | None:
        """Return what the fresh texts cost one `record` or the whole `client`; None: no guarantee for that unit."""
        if self.noise is None or (unit == "client" and self.unit != "client"):
            return None
        return self.noise if self.of_teacher else NoiseEvent(self.noise.noise_multiplier, max(self.fresh, 1))

    @property
    def of_teacher(self) -> bool:
        """Whether the noise is a teacher's, and not that of each text; a mechanism that is not known has the latter."""
        facts = MECHANISMS.get(self.mechanism)
        return facts is not None and facts.noise_on == "teacher"

    def without(self, lost: Collection[str]) -> "LedgerEntry":
        """Return the entry without the digests of keys that were lost."""
        gone = {"keys": "", "start": 0, "stop": 0} if self.keys in lost else {}
        return self.model_copy(update=gone | ({"readings": ""} if self.readings in lost else {})) if lost else self

    def to_json(self) -> str:
        """Return the fields that say something."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, line: str) -> "LedgerEntry | None":
        """Parse what `to_json` wrote; None for anything else."""
        try:
            return cls.model_validate_json(line)
        except (ValidationError, PrivacyError):
            return None
