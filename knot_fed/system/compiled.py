"""Compiling loops over small arrays with Numba."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba

FAST_MATH = {"reassoc", "contract", "arcp", "nsz"}
"""Free order of sums and products; NaN stays NaN."""

OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": FAST_MATH, "error_model": "numpy"}

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """Compile a function on its first call, without the GIL; tests' checks of annotations are taken off first.

    Machine code is kept beside the source, or where Numba keeps it for this user, so that a process does not compile
    what another one has; where neither folder can be written, each process compiles for itself. Kept code that is
    damaged is compiled again.
    """
    plain = inspect.unwrap(function)
    try:
        ready = numba.njit(cache=True, **OPTIONS)(plain)
        _heal(ready._cache)
    except RuntimeError:
        ready = numba.njit(**OPTIONS)(plain)
    return cast(_Function, ready)


def _heal(cache: Any) -> None:
    """Let damaged files of Numba's cache count as absent, and a full disk as no cache; Numba itself raises for both."""
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
