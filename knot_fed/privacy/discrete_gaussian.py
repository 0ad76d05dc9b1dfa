"""Exact samples of the discrete Gaussian distribution, by comparing uniform words (Karney 2016, ACM TOMS 42(1)).

Algorithm N draws a standard normal deviate as `k + x` with a sign, k whole and x in [0, 1), and computes nothing in
floating point. With x cut to whole multiples of 2^-bits the same steps draw from the discrete Gaussian on that grid,
since each step accepts with the chance that belongs to this very x. It is exact but for words of 64 bits that tie.
"""

import numpy as np
from jaxtyping import Int, UInt64

from knot_fed.system.compiled import compiled


@compiled
def fill(words: UInt64[np.ndarray, "words"], drawn: Int[np.ndarray, "draws"], bits: int) -> tuple[int, int]:
    """Fill `drawn` with deviates in steps of 2^-bits, as far as the words last.

    Returns
    -------
    filled
        How many were drawn.
    used
        How many words they took; a deviate that was begun is drawn again from its first word.
    """
    position, filled = 0, 0
    while filled < len(drawn):
        value, after = _normal(words, position, bits)
        if after < 0:
            break
        drawn[filled] = value
        position, filled = after, filled + 1
    return filled, position


@compiled
def _normal(words: np.ndarray, position: int, bits: int) -> tuple[int, int]:
    """Draw `k + x` with a sign, k whole and x in [0, 1), in steps of 2^-bits; the next position, or -1: no words left.

    The chance of k is `exp(-k/2) exp(-k(k-1)/2)`, that of x given k `exp(-x(2k+x)/2)`: in all `exp(-(k+x)^2/2)`.
    """
    while True:
        k, accepted = 0, True
        while accepted:
            accepted, position = _exp_half(words, position)
            k += 1
        k -= 1
        accepted = True
        for _ in range(k * (k - 1)):
            if accepted:
                accepted, position = _exp_half(words, position)
        if position < 0 or position >= len(words):
            return 0, -1
        word = words[position]
        position += 1
        x = word >> np.uint64(64 - bits)
        below = x << np.uint64(64 - bits)
        for _ in range(k + 1):
            if accepted:
                accepted, position = _exp_part(words, position, below, k)
        if position < 0:
            return 0, -1
        negative = (word & np.uint64(1)) == np.uint64(1)
        value = (k << bits) + int(x)
        if accepted and not (negative and value == 0):
            return (-value if negative else value), position


@compiled
def _exp_half(words: np.ndarray, position: int) -> tuple[bool, int]:
    """Give true with a chance of `exp(-1/2)`: whether a falling run of uniforms from 1/2 on has even length."""
    last, even = np.uint64(1 << 63), True
    while 0 <= position < len(words):
        word = words[position]
        position += 1
        if word >= last:
            return even, position
        last, even = word, not even
    return False, -1


@compiled
def _exp_part(words: np.ndarray, position: int, x: int, k: int) -> tuple[bool, int]:
    """Give true with a chance of `exp(-x(2k+x)/(2k+2))`: a falling run from x on, each step kept by (2k+x)/(2k+2).

    Of 2k + 2 sides of a die 2k keep the step, one ends it, and one keeps it with a chance of x.
    """
    last, even = x, True
    sides = np.uint64(2 * k + 2)
    most = np.uint64(0xFFFFFFFFFFFFFFFF) // sides * sides
    while 0 <= position < len(words) - 1:
        word = words[position]
        position += 1
        if word >= last:
            return even, position
        side = most
        while side >= most:
            if position >= len(words) - 1:
                return False, -1
            side = words[position]
            position += 1
        side = side % sides
        if side == np.uint64(2 * k):
            if words[position] >= x:
                return even, position + 1
            position += 1
        elif side > np.uint64(2 * k):
            return even, position
        last, even = word, not even
    return False, -1
