"""Compilation of loops over small arrays with Numba."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba

FAST_MATH = {"reassoc", "contract", "arcp", "nsz"}
"""Allows reordering of sums and products, and preserves NaN."""

OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": FAST_MATH, "error_model": "numpy"}

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """Compile a function on its first call, to run without the GIL and without the type checks of tests.

    Numba caches machine code beside the source or in the user's cache folder, so that processes share it. If neither is
    writable, each process compiles for itself; a damaged cache is recompiled.
    """
    plain = inspect.unwrap(function)
    try:
        ready = numba.njit(cache=True, **OPTIONS)(plain)
        _heal(ready._cache)
    except RuntimeError:
        ready = numba.njit(**OPTIONS)(plain)
    return cast(_Function, ready)


def _heal(cache: Any) -> None:
    """Treat damaged files of Numba's cache as absent, and a full disk as no cache; Numba raises for both."""
    load, save = cache.load_overload, cache.save_overload

    def load_or_compile(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:  # a cut pickle raises nearly anything
            with suppress(OSError):
                cache.flush()
            return None

    def save_if_possible(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    cache.load_overload, cache.save_overload = load_or_compile, save_if_possible
