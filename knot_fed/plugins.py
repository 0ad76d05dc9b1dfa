"""A user's own functions, named in the configuration as `package.module:function`."""

import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

from knot_fed.errors import ConfigError


def is_own(name: str) -> bool:
    """Tell whether a name has the form of a user's own function."""
    module, colon, function = name.partition(":")
    return bool(module and colon and function)


def resolve_own(name: str, *, key: str, known: Sequence[str]) -> Callable[..., Any]:
    """Import a user's own function; its module must be installed where the server runs.

    Parameters
    ----------
    name
        `package.module:function`.
    key, known
        Key of the configuration and the names that it knows without importing anything, for the message.

    Raises
    ------
    ConfigError
        If the name does not have this form, cannot be imported, or is not callable; the message lists `known`.

    Examples
    --------
    >>> resolve_own("math:hypot", key="distill.loss", known=["ot"])(3, 4)
    5.0
    """
    remedy = f"use {', '.join(known)}, or your own package.module:function"
    if not is_own(name):
        raise ConfigError(f"{key} = {name!r}: there is none of that name; {remedy}")
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key} = {name!r}: cannot be imported ({error}); {remedy}") from None
    if not callable(found):
        raise ConfigError(f"{key} = {name!r}: is of type {type(found).__name__}, not a function; {remedy}")
    function: Callable[..., Any] = found
    return function
