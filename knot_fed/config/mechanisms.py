"""The registry of privacy mechanisms: what each guarantees and reads, and where its code is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticKnownError

NO_MECHANISM = "none"
"""The mechanism that does nothing: soft labels leave as they are."""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a mechanism guarantees, in the words of `summary.json`."""

    unit: str
    neighbouring: str
    sensitivity: str
    accountant: str
    covers: str


@dataclass(frozen=True, slots=True)
class MechanismFacts:
    """What is declared of a mechanism, for packages that read it without running it.

    Parameters
    ----------
    implementation
        `package.module:Class` of its `knot_fed.mechanisms.Mechanism`, which is imported where it runs only.
    about
        What it acts on, for the table of keys.
    guarantee
        In words; its unit is `none` where nothing is guaranteed.
    noise_on
        What its noise is on. `teacher`: one teacher has one cost, whatever it answers, and costs nothing new while it
        is kept. `rows`: each text has its own noise and cost, and its noisy row is kept, since the same text asked
        again must get the same row.
    reads
        Attributes of `PrivacyConfig` that it reads beside epsilon and delta, as `summary.json` lists them.
    schemes
        Names of `weights.scheme` whose scores the guarantee covers.
    """

    implementation: str
    about: str
    guarantee: Guarantee
    noise_on: Literal["nothing", "teacher", "rows"]
    reads: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()

    @property
    def has_guarantee(self) -> bool:
        """Whether anything is guaranteed, so that nothing else may leave that shows the private examples."""
        return self.guarantee.unit != "none"


WITHOUT_PRIVATE_SCORES = ("uniform", "certainty")
OVER_TEXTS = "dp-accounting, exact curve of the Gaussian mechanism composed over texts"
TEXTS_ASKED = "the texts asked; not the metrics on the test split"

MECHANISMS: dict[str, MechanismFacts] = {
    NO_MECHANISM: MechanismFacts(
        "knot_fed.mechanisms.none:NoMechanism",
        about="",
        guarantee=Guarantee("none", "none", "unbounded", "none", "no guarantee: soft labels leave without noise"),
        noise_on="nothing",
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
        schemes=(*WITHOUT_PRIVATE_SCORES, "confidence", "histogram-confidence"),
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
        schemes=WITHOUT_PRIVATE_SCORES,
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
        schemes=WITHOUT_PRIVATE_SCORES,
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


def described_choices(choices: Mapping[str, str]) -> str:
    """Join names with what they are about.

    Examples
    --------
    >>> described_choices({"none": "", "pate": "shards", "gaussian": "noise"})
    'none, pate (shards) or gaussian (noise)'
    """
    *others, last = (f"{name} ({about})" if about else name for name, about in choices.items())
    return f"{', '.join(others)} or {last}"


def _known(name: object) -> object:
    if not isinstance(name, str) or name not in MECHANISMS:
        *others, last = map(repr, MECHANISMS)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    return name


MechanismName: TypeAlias = Annotated[str, Field(max_length=64), BeforeValidator(_known)]
"""A name of `MECHANISMS`."""
