"""Exact samples of the discrete Gaussian distribution by comparing uniform words (Karney 2016, ACM TOMS 42(1)).

Algorithm N draws a standard normal deviate as `k + x` with a sign, k whole and x in [0, 1), without floating-point
arithmetic. With x truncated to a multiple of 2^-bits the same steps sample the discrete Gaussian on that grid, since
each step accepts with the probability of this very x. The samples are exact unless two words of 64 bits tie.
"""

import numpy as np
from jaxtyping import Int, UInt64

from knot_fed.system.compiled import compiled


@compiled
def fill(words: UInt64[np.ndarray, "words"], drawn: Int[np.ndarray, "draws"], bits: int) -> tuple[int, int]:
    """Fill `drawn` with deviates in steps of 2^-bits until the words run out; return the counts of both that were used.

    A deviate that runs out of words is not counted, and is drawn again from its first word.
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
    """Draw `k + x` with a sign, in steps of 2^-bits; return it and the next position, or -1 if the words ran out.

    k has probability `exp(-k/2) exp(-k(k-1)/2)`, x given k `exp(-x(2k+x)/2)`; the product is `exp(-(k+x)^2/2)`.
    """
    while True:
        k, accepted = 0, True
        while accepted:  # step N1: k with probability proportional to exp(-k/2)
            accepted, position = _exp_half(words, position)
            k += 1
        k -= 1
        accepted = True
        for _ in range(k * (k - 1)):  # N2: accept k with probability exp(-k(k-1)/2)
            if accepted:
                accepted, position = _exp_half(words, position)
        if position < 0 or position >= len(words):
            return 0, -1
        word = words[position]
        position += 1
        x = word >> np.uint64(64 - bits)  # N3: the high bits of a word, as a whole number of steps
        below = x << np.uint64(64 - bits)  # x as a fraction of 2^64, to compare with words
        for _ in range(k + 1):  # N4: accept x with probability exp(-x(2k+x)/2)
            if accepted:
                accepted, position = _exp_part(words, position, below, k)
        if position < 0:
            return 0, -1
        negative = (word & np.uint64(1)) == np.uint64(1)  # N5: the lowest bit, which x does not use
        value = (k << bits) + int(x)
        if accepted and not (negative and value == 0):  # count 0 once, not as +0 and -0
            return (-value if negative else value), position


@compiled
def _exp_half(words: np.ndarray, position: int) -> tuple[bool, int]:
    """Return True with probability `exp(-1/2)`: a decreasing run of uniforms that starts at 1/2 has even length."""
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
    """Return True with probability `exp(-x(2k+x)/(2k+2))`.

    A decreasing run that starts at x continues with probability (2k+x)/(2k+2): of the 2k + 2 sides of a die, 2k
    continue it, one ends it, and one continues it with probability x.
    """
    last, even = x, True
    sides = np.uint64(2 * k + 2)
    most = np.uint64(0xFFFFFFFFFFFFFFFF) // sides * sides  # larger words would bias the die
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
