"""The registry of privacy mechanisms: guarantees, settings, and the class that implements each."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from knot_fed.config.choices import SCHEMES, one_of

NO_MECHANISM = "none"
"""The mechanism under which soft labels leave unchanged."""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """The guarantee of a mechanism, in the words of `summary.json`."""

    unit: str
    neighbouring: str
    sensitivity: str
    accountant: str
    covers: str


@dataclass(frozen=True, slots=True)
class MechanismFacts:
    """The declaration of a mechanism, for packages that need it without running the mechanism.

    Noise on a teacher costs privacy once, however many texts the teacher answers. Noise on rows costs privacy for each
    text, and the noisy row is stored, since repeating a text must return the same row.
    """

    implementation: str  # `package.module:Class` of its `knot_fed.mechanisms.Mechanism`, imported where it runs
    about: str  # what it acts on, for the table of keys
    guarantee: Guarantee  # its unit is `none` if nothing is guaranteed
    noise_on: Literal["nothing", "teacher", "rows"]
    reads: tuple[str, ...] = ()  # attributes of PrivacyConfig besides epsilon and delta, as `summary.json` lists them
    scores: tuple[str, ...] = ("nothing",)  # what a covered weighting scheme may read, as in `SchemeFacts.reads`
    starts: tuple[str, ...] | None = ("scratch",)  # values of `teacher.start` that it accounts for; None: all

    @property
    def has_guarantee(self) -> bool:
        """Whether anything is guaranteed; if so, nothing else that depends on the private examples may leave."""
        return self.guarantee.unit != "none"

    @property
    def schemes(self) -> list[str]:
        """Names of `weights.scheme` whose scores the guarantee covers; none without a guarantee."""
        kinds = self.scores if self.has_guarantee else ()
        return [name for kind in kinds for name, scheme in SCHEMES.items() if scheme.reads == kind]


OVER_TEXTS = "dp-accounting, exact curve of the Gaussian mechanism composed over texts"
TEXTS_ASKED = "the texts asked; not the metrics on the test split"

MECHANISMS: dict[str, MechanismFacts] = {
    NO_MECHANISM: MechanismFacts(
        "knot_fed.mechanisms.none:NoMechanism",
        about="",
        guarantee=Guarantee("none", "none", "unbounded", "none", "no guarantee: soft labels leave without noise"),
        noise_on="nothing",
        starts=None,
    ),
    "dp-sgd": MechanismFacts(
        "knot_fed.mechanisms.dp_sgd:DpSgd",
        about="teachers",
        guarantee=Guarantee(
            unit="record",
            neighbouring="one record of the training split more or less",
            sensitivity="clipping-norm for each sum of clipped gradients",
            accountant="dp-accounting, privacy loss distribution of the Poisson-subsampled Gaussian",
            covers="any number of texts, and confidences, by post-processing; not the metrics on the test split",
        ),
        noise_on="teacher",
        reads=("clipping_norm", "sampling_rate", "epochs", "steps", "learning_rate"),
        scores=("nothing", "confidence"),
        starts=("scratch", "student"),
    ),
    "pate": MechanismFacts(
        "knot_fed.mechanisms.pate:Pate",
        about="shards inside a client",
        guarantee=Guarantee(
            unit="record",
            neighbouring="one record of the training split more or less, which changes one shard",
            sensitivity="sqrt(2) for the votes on one text, or sqrt(2) / shards for the mean of distributions",
            accountant=OVER_TEXTS,
            covers=TEXTS_ASKED,
        ),
        noise_on="rows",
        reads=("shards", "votes", "epochs"),
    ),
    "gaussian": MechanismFacts(
        "knot_fed.mechanisms.gaussian:GaussianRows",
        about="noise on soft labels",
        guarantee=Guarantee(
            unit="client",
            neighbouring="all records of a client replaced by any others",
            sensitivity="sqrt(2) for one soft label, sqrt(2 T) for T texts",
            accountant=OVER_TEXTS,
            covers=TEXTS_ASKED,
        ),
        noise_on="rows",
        starts=None,
    ),
}
"""All mechanisms by the name that `privacy.mechanism` gives; the first is the default."""


def readers_of(setting: str) -> list[str]:
    """Return the mechanisms that read an attribute of `PrivacyConfig`.

    Examples
    --------
    >>> readers_of("epochs")
    ['dp-sgd', 'pate']
    """
    return [name for name, facts in MECHANISMS.items() if setting in facts.reads]


MechanismName: TypeAlias = Annotated[str, Field(max_length=64), one_of(MECHANISMS)]
"""A name in `MECHANISMS`."""
