"""A user's own model: a function, named in the configuration, that returns a `TextClassifier` for a specification."""

from collections.abc import Callable
from typing import Any

from knot_fed.config.plugins import is_own, load_plugin, source_digest
from knot_fed.errors import OwnCodeError, OwnModelError
from knot_fed.models.huggingface.pretrained import HF
from knot_fed.models.text_classifier import ModelSpec, TextClassifier

KNOWN = ("ngram-bag", "tiny-bert", "hf:<hub id or absolute folder>")


def is_own_model(name: str) -> bool:
    """Tell whether a model's name has the form of a user's own function, `package.module:function`."""
    return is_own(name) and not name.startswith(HF)


def build_own(spec: ModelSpec) -> TextClassifier:
    """Call a user's own function with a specification; torch's generators are seeded by the caller.

    Only a run on virtual clients, or a node's own configuration or policy, may name it: `Client.check_model`.

    Raises
    ------
    OwnModelError
        If it cannot be imported, raises, or returns anything but a `TextClassifier` of the specification.
    """
    function = _function(spec.name)
    try:
        model = function(spec)
    except OwnCodeError as error:
        raise OwnModelError(str(error), calls=error.calls) from None
    if not isinstance(model, TextClassifier):
        found = f"returned a {type(model).__name__}, expected a knot_fed.models.TextClassifier"
        raise OwnModelError(f"model = {spec.name!r}: your function {found}")
    if getattr(model, "spec", None) != spec:
        found = "returned a model of another specification; pass the one that it is given to TextClassifier.__init__"
        raise OwnModelError(f"model = {spec.name!r}: your function {found}")
    return model


def own_identity(name: str) -> list[str]:
    """Return what tells a user's own model from another, in digests of kept teachers: its name and its source.

    Raises
    ------
    OwnModelError
        If it cannot be imported, or has no Python source.
    """
    try:
        return [name, source_digest(_function(name))]
    except (TypeError, OSError):
        raise OwnModelError(
            f"model = {name!r}: its source cannot be found, by which kept teachers are told apart; name a function or a"
            " class in a Python file"
        ) from None


def _function(name: str) -> Callable[..., Any]:
    try:
        return load_plugin(name, key="model", known=KNOWN)
    except OwnCodeError as error:
        raise OwnModelError(str(error), calls=error.calls) from None
