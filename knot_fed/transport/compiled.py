"""Compiling loops over small arrays with Numba."""

import inspect
from collections.abc import Callable
from typing import TypeVar

import numba

FAST_MATH = {"reassoc", "contract", "arcp", "nsz"}
"""Free order of sums and products; NaN stays NaN."""

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """Compile a function on its first call, without the GIL; tests' checks of annotations are taken off first."""
    ready: _Function = numba.njit(  # type: ignore[assignment]
        nogil=True, fastmath=FAST_MATH, error_model="numpy"
    )(inspect.unwrap(function))
    return ready
