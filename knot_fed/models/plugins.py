"""Model plug-ins: functions named in the configuration that return a `TextClassifier` for a specification."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from knot_fed.config.choices import MODELS
from knot_fed.config.plugins import is_plugin, load_plugin, source_digest
from knot_fed.errors import PluginError, PluginModelError
from knot_fed.models.huggingface.pretrained import is_pretrained
from knot_fed.models.text_classifier import ModelSpec, TextClassifier


def is_plugin_model(name: str) -> bool:
    """Return whether a model's name has the form of a plug-in, `package.module:function`."""
    return is_plugin(name) and not is_pretrained(name)


def build_plugin(spec: ModelSpec) -> TextClassifier:
    """Call a plug-in with a specification; the caller seeds torch's generators.

    Only a run on virtual clients, or a node's own configuration or policy, may name it (`Client.check_model`). Raises
    `PluginModelError` if it cannot be imported, raises, or does not return a `TextClassifier` of the specification.
    """
    with as_model_error():
        model = _load(spec.name)(spec)
    if not isinstance(model, TextClassifier):
        found = f"returned a {type(model).__name__}, expected a knot_fed.models.TextClassifier"
        raise PluginModelError(f"model = {spec.name!r}: your function {found}")
    if getattr(model, "spec", None) != spec:
        found = "returned a model of another specification; pass the one that it is given to TextClassifier.__init__"
        raise PluginModelError(f"model = {spec.name!r}: your function {found}")
    return model


def plugin_identity(name: str) -> list[str]:
    """Return the name and a source digest of a plug-in, which identify it in digests of kept teachers.

    Raises `PluginModelError` if it cannot be imported, or has no Python source.
    """
    try:
        with as_model_error():
            return [name, source_digest(_load(name))]
    except (TypeError, OSError):
        raise PluginModelError(
            f"model = {name!r}: its source cannot be found, and kept teachers are identified by it; name a function or"
            " a class in a Python file"
        ) from None


def _load(name: str) -> Callable[..., Any]:
    return load_plugin(name, key="model", known=tuple(MODELS))


@contextmanager
def as_model_error() -> Iterator[None]:
    """Raise a `PluginError` as a `PluginModelError`, whose text peers do not see."""
    try:
        yield
    except PluginError as error:
        raise PluginModelError(str(error), calls=error.calls) from None
