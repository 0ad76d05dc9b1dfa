"""A user's own functions, named in the configuration as `package.module:function`."""

import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from knot_fed.errors import ConfigError, OwnCodeError, shown

OWN_CODE = "KNOT_FED_OWN_CODE"
"""Environment variable with the folder of the call, in which commands and their runs look for a user's modules."""


def is_own(name: str) -> bool:
    """Tell whether a name has the form of a user's own function."""
    module, colon, function = name.partition(":")
    return bool(module and colon and function)


def resolve_own(name: str, *, key: str, known: Sequence[str]) -> Callable[..., Any]:
    """Import a user's own function; its module is installed where the server runs, or in the folder of the call.

    Parameters
    ----------
    name
        `package.module:function`.
    key, known
        Key of the configuration and the names that it knows without importing anything, for the message.

    Returns
    -------
    function
        The user's, whose exceptions become an `OwnCodeError`.

    Raises
    ------
    ConfigError
        If the name does not have this form, or is not callable; the message lists `known`.
    OwnCodeError
        If it cannot be imported.

    Examples
    --------
    >>> resolve_own("math:hypot", key="distill.loss", known=["ot"])(3, 4)
    5.0
    """
    remedy = f"use {', '.join(known)}, or your own package.module:function"
    if not is_own(name):
        raise ConfigError(f"{key} = {shown(name)}: there is none of that name; {remedy}")
    folder = os.environ.get(OWN_CODE, "")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        found = pkgutil.resolve_name(name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise OwnCodeError(f"{key} = {shown(name)}: cannot be imported ({error}); {remedy}") from None
    except Exception as error:
        raise _own_code_error(name, key, error) from None
    if not callable(found):
        raise ConfigError(f"{key} = {shown(name)}: is of type {type(found).__name__}, not a function; {remedy}")

    def called(*arguments: Any) -> Any:
        try:
            return found(*arguments)
        except Exception as error:
            raise _own_code_error(name, key, error) from None

    return called


def _own_code_error(name: str, key: str, error: Exception) -> OwnCodeError:
    """Say what the user's code raised and where, without the calls that led to it."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    place = f" in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    calls = "".join(traceback.format_list(own)) + "".join(traceback.format_exception_only(error))
    said = " ".join(str(error).split())[:200]
    return OwnCodeError(
        f"{key} = {shown(name)}: your function raised {type(error).__name__}{place} ({said}); mend it", calls=calls
    )
