"""The registry of names that keys accept, each with a short description for the table of keys.

The package that implements a family maps the same names to its code. `tests/config/test_choices.py` compares the two,
and the lists in docs/reference/configuration.md and in the help of commands.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError, PydanticKnownError

from knot_fed.config.plugins import is_plugin

Reads: TypeAlias = Literal[
    "nothing", "examples", "confidence", "density", "selection", "training-loss", "reliability", "domain"
]


@dataclass(frozen=True, slots=True)
class SchemeFacts:
    """A weighting scheme: a short description, and what it reads of a client besides soft labels."""

    about: str = ""
    reads: Reads = "nothing"


LOSSES: dict[str, str] = {
    "ot": "",
    "sinkhorn-divergence": "",
    "entropy": "symmetrised KL",
    "kl": "teacher to student",
    "reverse-kl": "",
    "jensen-shannon": "",
    "mse": "",
}
CONSENSUSES: dict[str, str] = {
    "none": "",
    "pooled": "the weighted mean of the answers",
    "student": "the student's predictions",
}
SCHEMES: dict[str, SchemeFacts] = {
    "uniform": SchemeFacts(),
    "size": SchemeFacts(reads="examples"),
    "confidence": SchemeFacts(reads="confidence"),
    "histogram-confidence": SchemeFacts(reads="confidence"),
    "certainty": SchemeFacts("low entropy"),
    "density": SchemeFacts(reads="density"),
    "domain": SchemeFacts("its texts or others", reads="domain"),
    "variance": SchemeFacts("over labels"),
    "selective": SchemeFacts("near its texts or not", reads="selection"),
    "adafd": SchemeFacts("training loss", reads="training-loss"),
    "reliability": SchemeFacts("precision on its validation split", reads="reliability"),
}
STARTS: dict[str, str] = {
    "scratch": "new parameters, once for all rounds",
    "student": "the student, sent down with each request",
    "both": "the mean of these two answers",
    "personal": "the client's personal model of the round before",
}
POOLINGS: dict[str, str] = {"mean": "", "era": "sharpened mean", "median": "", "trimmed-mean": ""}
WEIGHTED = ("mean", "era")
"""The poolings that read weights."""
GROUND_COSTS: dict[str, str] = {
    "semantic": "",
    "augmented": "",
    "zero-one": "",
    "cosine": "",
    "embedding": "label names, read by an encoder",
    "confusion": "learnt from the pooled soft labels",
    "cka": "learnt from the student's features",
}
OF_COORDINATES = ("semantic", "augmented", "cosine")
"""Ground costs that read coordinates."""
OVER_COST = ("ot", "sinkhorn-divergence")
"""Losses over a ground cost."""
LEARNT_COSTS = ("confusion", "cka")
"""Ground costs that are known only after the first round's answers."""
GEOMETRIES: dict[str, str] = {
    "auto": "coordinates, or without them those of an embedding cost, else equal",
    "equal": "all labels one apart",
    "embedding": "label names, read by an encoder",
}
SOLVERS: dict[str, str] = {"auto": "", "line": "", "star": "", "table": "", "sinkhorn": "", "lp": ""}
PARTITIONS: dict[str, str] = {
    "iid": "", "dirichlet": "", "pathological": "", "shard": "", "exponential": "", "natural-id": ""
}  # fmt: skip
MODELS: dict[str, str] = {
    "ngram-bag": "",
    "tiny-bert": "",
    "hf:<hub id or absolute folder>": "",
    "prompt:<hub id or absolute folder>": "teachers only, never trained",
}
COMPRESSIONS: dict[str, str] = {"none": "", "float16": "", "uint8": "", "top-k": "", "hard": ""}
AUTO, NO_TRACKER = "auto", "none"
TRACKERS: dict[str, str] = {
    AUTO: "tensorboard if installed",
    NO_TRACKER: "",
    "tensorboard": "",
    "mlflow": "",
    "wandb": "Weights & Biases",
}


def scheme_reads(scheme: str) -> Reads:
    """Return what a scheme reads of a client besides soft labels; for a plug-in, its confidence."""
    return SCHEMES[scheme].reads if scheme in SCHEMES else "confidence"


def reports_scores(scheme: str) -> bool:
    """Return whether a client sends a score for each text, which the scheme reads."""
    return scheme_reads(scheme) not in ("nothing", "examples")


def described(choices: Mapping[str, object], *, last: str = "") -> str:
    """Join names, each with its description.

    Parameters
    ----------
    choices
        A registry; its values are texts, or have one as `about`.
    last
        One more choice; may be empty.

    Examples
    --------
    >>> described({"none": "", "pate": "shards", "gaussian": "noise"})
    'none, pate (shards) or gaussian (noise)'
    >>> described({"ot": ""}, last="your.module:function")
    'ot or your.module:function'
    """
    abouts = {name: str(getattr(entry, "about", entry)) for name, entry in choices.items()}
    parts = [f"{name} ({about})" if about else name for name, about in abouts.items()] + [last] * bool(last)
    return " or ".join([", ".join(parts[:-1])] * (len(parts) > 1) + parts[-1:])


def one_of(choices: Mapping[str, object]) -> BeforeValidator:
    """Accept a name of a registry, as a `Literal` would; names may be added to the registry later."""

    def check(name: object) -> object:
        if not isinstance(name, str) or name not in choices:
            expected = described(dict.fromkeys(map(repr, choices), ""))
            raise PydanticKnownError("literal_error", {"expected": expected})
        return name

    return BeforeValidator(check)


def known_or_plugin(choices: Mapping[str, object]) -> AfterValidator:
    """Accept a name of a registry, or one in the form of a plug-in, which is imported where it is used."""

    def check(name: str) -> str:
        if name not in choices and not is_plugin(name):
            raise PydanticCustomError("name", f"use {', '.join(choices)}, or your own package.module:function")
        return name

    return AfterValidator(check)


def names_of(choices: Mapping[str, object], *, alone: Collection[str]) -> AfterValidator:
    """Accept names of a registry separated by commas; those of `alone` only by themselves."""

    def check(text: str) -> str:
        names = [name.strip() for name in text.split(",")]
        if any(name not in choices for name in names):
            raise PydanticCustomError("names", f"use {', '.join(choices)}, or several of them separated by commas")
        together = [name for name in names if name in alone]
        if together and len(names) > 1:
            raise PydanticCustomError("names", f"use {together[0]} alone, or leave it out")
        return text

    return AfterValidator(check)
