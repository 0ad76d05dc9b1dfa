"""Conversion between flat mappings with dotted, kebab-case keys and validated configurations."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from knot_fed.config.fields import LONGEST_FUNCTION
from knot_fed.errors import ConfigError, shown

Scalar: TypeAlias = bool | int | float | str
KEYS_PAGE = "https://knot-fed.github.io/knot_fed/reference/configuration/"
_Model = TypeVar("_Model", bound=BaseModel)


def known_keys(model: type[BaseModel]) -> list[str]:
    """List a configuration's dotted keys."""
    return list(defaults_of(model))


def check_known_keys(mapping: Mapping[str, Scalar], *, known: list[str], where: str) -> None:
    """Raise ConfigError for an unknown key; the message names the nearest known keys."""
    for key in mapping:
        if key not in known:
            key = key[:LONGEST_FUNCTION]
            last = key.rpartition(".")[2]
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5) or [
                name for name in known if difflib.get_close_matches(last, [name.rpartition(".")[2]], cutoff=0.6)
            ]
            hint = f"; nearest known: {', '.join(near)}" if near else f"; {KEYS_PAGE} lists all keys"
            raise ConfigError(f"{where}: unknown key {shown(key)}{hint}")


def flattened(tree: Mapping[str, object], prefix: str = "") -> dict[str, Scalar]:
    """Turn nested tables into dotted keys."""
    flat: dict[str, Scalar] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, prefix=f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            flat[prefix + key] = value
        else:
            raise ConfigError(
                f"run configuration: {shown(prefix + key)} is a {type(value).__name__}; use a string or a number"
            )
    return flat


def nested(flat: Mapping[str, Scalar]) -> dict[str, Any]:
    """Turn dotted keys into tables, one level deep."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, field = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[field] = value
    return tree


def validated(model: type[_Model], tree: Mapping[str, object], *, where: str, private: bool = False) -> _Model:
    """Validate nested tables, which messages call `where`; raises ConfigError about the first invalid value.

    Messages do not repeat `private` strings: a client's errors go to the server.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise invalid(error, where=where, private=private) from None


def invalid(error: ValidationError, *, where: str, private: bool = False) -> ConfigError:
    """Describe the first invalid value in one sentence; for the arguments see `validated`."""
    first = error.errors()[0]
    key = shown(".".join(str(part) for part in first["loc"])).strip("'")
    if first["type"] == "missing":
        return ConfigError(f"{where}: {key} is missing; give it a value")
    hidden = private and isinstance(first["input"], str)
    found = "" if hidden else f" = {shown(first['input'])}"
    return ConfigError(f"{where}: {key}{found}: {first['msg'].lower()}")


def defaults_of(model: type[BaseModel]) -> dict[str, Scalar]:
    """Return a configuration's defaults as a flat mapping."""
    return flattened(model().model_dump(by_alias=True))
