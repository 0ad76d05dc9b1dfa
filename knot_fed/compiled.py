"""Compiling loops over small arrays with Numba."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

FAST_MATH = {"reassoc", "contract", "arcp", "nsz"}
"""Free order of sums and products; NaN stays NaN."""

OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": FAST_MATH, "error_model": "numpy"}

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """Compile a function on its first call, without the GIL; tests' checks of annotations are taken off first.

    Machine code is kept beside the source, or where Numba keeps it for this user, so that a process does not compile
    what another one has; where neither folder can be written, each process compiles for itself.
    """
    plain = inspect.unwrap(function)
    try:
        ready = numba.njit(cache=True, **OPTIONS)(plain)
    except RuntimeError:
        ready = numba.njit(**OPTIONS)(plain)
    return cast(_Function, ready)
