"""Plug-ins: users' functions, named in the configuration as `package.module:function`."""

import functools
import hashlib
import importlib
import inspect
import os
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from knot_fed.errors import ConfigError, PluginError, shown
from knot_fed.system.stopping import Stopped

PLUGIN_FOLDER = "KNOT_FED_OWN_CODE"
"""Environment variable with the folder in which a command was called; plug-in modules are searched there too."""


def is_plugin(name: str) -> bool:
    """Return whether a name has the form of a plug-in."""
    module, colon, function = name.partition(":")
    return bool(module and colon and function)


def load_plugin(name: str, *, key: str, known: Sequence[str]) -> Callable[..., Any]:
    """Import a plug-in from an installed module or the folder of the call; its exceptions become `PluginError`.

    Messages mention the key of the configuration and its `known` built-in names.

    Raises
    ------
    ConfigError
        If the name is not of the form `package.module:function`, or not a plain function.
    PluginError
        If it cannot be imported.

    Examples
    --------
    >>> load_plugin("math:hypot", key="distill.loss", known=["ot"])(3, 4)
    5.0
    """
    remedy = f"use {', '.join(known)}, or your own package.module:function"
    if not is_plugin(name):
        raise ConfigError(f"{key} = {shown(name)}: unknown name; {remedy}")
    folder = os.environ.get(PLUGIN_FOLDER, "")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        found = pkgutil.resolve_name(name)
    except ModuleNotFoundError as error:
        own = error.name is None or f"{name.partition(':')[0]}.".startswith(f"{error.name}.")
        advice = remedy if own else f"install {error.name} where the server runs"
        raise PluginError(f"{key} = {shown(name)}: cannot be imported ({error}); {advice}") from None
    except (AttributeError, ValueError) as error:
        raise PluginError(f"{key} = {shown(name)}: cannot be imported ({error}); {remedy}") from None
    except Stopped:
        raise
    except (Exception, SystemExit) as error:
        raise plugin_error(name, key, error) from None
    if not callable(found):
        raise ConfigError(f"{key} = {shown(name)}: is of type {type(found).__name__}, not a function; {remedy}")
    if inspect.iscoroutinefunction(found):
        raise ConfigError(f"{key} = {shown(name)}: is async, and nothing awaits it; write a plain function")

    @functools.wraps(found)
    def called(*arguments: Any) -> Any:
        try:
            return found(*arguments)
        except Stopped:
            raise
        except (Exception, SystemExit) as error:  # an exit would end the run silently, with its own code
            raise plugin_error(name, key, error) from None

    return called


def source_digest(function: Callable[..., Any]) -> str:
    """Return a digest of a plug-in's source file, and in a package of all files beside it.

    Examples
    --------
    >>> len(source_digest(source_digest))
    64
    """
    own = inspect.unwrap(function)
    file = Path(inspect.getsourcefile(own) or "")
    package = getattr(sys.modules.get(own.__module__), "__package__", "")
    digest = hashlib.sha256()
    for source in sorted(file.parent.glob("*.py")) if package else [file]:
        digest.update(source.name.encode() + hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


def plugin_error(name: str, key: str, error: BaseException) -> PluginError:
    """Describe what a plug-in raised and where, without the calls that led to it."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _leads_to_plugin(frame.filename)]
    theirs = [frame for frame in own if not _is_library(frame.filename)] or own
    places = [(frame.filename, frame.lineno) for frame in theirs]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    place = f" in {Path(places[-1][0]).name}, line {places[-1][1]}" if places else ""
    calls = "".join(traceback.format_list(own)) + "".join(traceback.format_exception_only(error))
    said = " ".join(str(error).split())[:200]
    return PluginError(
        f"{key} = {shown(name)}: your function raised {type(error).__name__}{place} ({said}); correct it", calls=calls
    )


def _leads_to_plugin(filename: str) -> bool:
    return filename in (__file__, pkgutil.__file__, importlib.__file__) or filename.startswith("<frozen importlib")


def _is_library(filename: str) -> bool:
    return any(Path(filename).is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))
