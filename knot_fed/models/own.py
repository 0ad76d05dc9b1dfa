"""A user's own model: a function, named in the configuration, that returns a `TextClassifier` for a specification."""

from collections.abc import Callable
from typing import Any

from knot_fed.config.plugins import is_own, resolve_own, source_digest
from knot_fed.errors import OwnCodeError
from knot_fed.models.huggingface.pretrained import HF
from knot_fed.models.text_classifier import ModelSpec, TextClassifier

KNOWN = ("ngram-bag", "tiny-bert", "hf:<hub id or absolute folder>")
ELSEWHERE = "the function of this client's own model cannot be used; its owner finds why in the client's own log"
"""What a server is told: an owner's code may quote what belongs to its machine."""


def is_own_model(name: str) -> bool:
    """Tell whether a model's name has the form of a user's own function, `package.module:function`."""
    return is_own(name) and not name.startswith(HF)


def build_own(spec: ModelSpec) -> TextClassifier:
    """Call a user's own function with a specification; torch's generators are seeded by the caller.

    Only a run on virtual clients, or a node's own configuration or policy, may name it: `Client.check_model`.

    Raises
    ------
    OwnCodeError
        If it cannot be imported, raises, or returns anything but a `TextClassifier` of the specification.
    """
    try:
        model = _function(spec.name)(spec)
    except OwnCodeError as error:
        raise OwnCodeError(str(error), calls=error.calls, refusal=ELSEWHERE) from None
    if not isinstance(model, TextClassifier):
        found = f"returned a {type(model).__name__}, expected a knot_fed.models.TextClassifier"
        raise OwnCodeError(f"model = {spec.name!r}: your function {found}", refusal=ELSEWHERE)
    if getattr(model, "spec", None) != spec:
        found = "returned a model of another specification; pass the one that it is given to TextClassifier.__init__"
        raise OwnCodeError(f"model = {spec.name!r}: your function {found}", refusal=ELSEWHERE)
    return model


def own_identity(name: str) -> list[str]:
    """Return what tells a user's own model from another, in digests of kept teachers: its name and its source."""
    return [name, source_digest(_function(name))]


def _function(name: str) -> Callable[..., Any]:
    return resolve_own(name, key="model", known=KNOWN)
