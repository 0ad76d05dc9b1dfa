"""Randomness for privacy: a ChaCha20 keystream under a key from the operating system.

Generators of NumPy or torch are not used, since a seed can be found by search: torch's CPU generator keeps 32 bits of
it. The low-order bits of a floating-point sum can reveal what the noise was added to (Mironov 2012). Values are
therefore rounded to a grid, and the noise is a whole number of grid steps from the discrete Gaussian distribution
(Canonne, Kamath, Steinke 2020), which at 2^40 steps per standard deviation has the guarantee of the continuous one.
"""

import math
import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from jaxtyping import Bool, Float, Int, UInt64

from knot_fed.errors import PrivacyError

KEY_BYTES = 32
GRID_BITS = 40
"""One standard deviation is 2^GRID_BITS steps of the grid."""
LARGEST = 2.0**62
"""Bound on a rounded value, in steps, so that value plus noise fits 64 bits."""
WORDS_EACH = 16
LEAST_WORDS, MOST_WORDS = 1 << 10, 1 << 15
BYTES_OF_A_KEY = 1 << 36
"""Bytes drawn from one key, well below the period of its block counter."""


class NoiseSource:
    """Fresh randomness for noise, Poisson sampling, masks and secrets.

    Only tests give a key (32 bytes), since whoever knows it can subtract the noise; None asks the operating system.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._start(key or secrets.token_bytes(KEY_BYTES))

    def _start(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        self._left = BYTES_OF_A_KEY

    def bytes(self, count: int) -> bytes:
        """Draw bytes; a new key replaces the old one long before its keystream could repeat."""
        if count > self._left:
            self._start(secrets.token_bytes(KEY_BYTES))
        self._left -= count
        return self._stream.update(bytes(count))

    def words(self, count: int) -> UInt64[np.ndarray, "words"]:
        """Draw uniform words of 64 bits."""
        drawn: UInt64[np.ndarray, words] = np.frombuffer(self.bytes(8 * count), dtype="<u8")
        return drawn

    def coins(self, count: int, *, probability: float) -> Bool[np.ndarray, "coins"]:
        """Draw booleans that are true with this probability, rounded down to a multiple of 2^-64."""
        words, threshold = self.words(count), int(math.ldexp(probability, 64))
        return np.ones(count, dtype=bool) if threshold >> 64 else words < np.uint64(threshold)

    def steps(self, count: int, *, bits: int = GRID_BITS) -> Int[np.ndarray, "steps"]:
        """Draw whole numbers z with `P(z) ~ exp(-z^2 / (2 sigma^2))` and `sigma = 2^bits`, bits in 1..50."""
        from knot_fed.privacy.discrete_gaussian import fill  # Numba is slow to import, and most clients draw no noise

        drawn, words, filled = np.empty(count, dtype=np.int64), self.words(0), 0
        while filled < count:
            wanted = min(max(WORDS_EACH * (count - filled), LEAST_WORDS), MOST_WORDS)
            words = np.concatenate([words, self.words(wanted)])
            done, used = fill(words, drawn[filled:], bits)
            filled, words = filled + done, words[used:]
        return drawn


def grid_step(std: float, *, sensitivity: float = math.inf, entries: int = 1) -> float:
    """Return the step of the grid for noise of standard deviation `std`, enlarged by the cost of rounding.

    Rounding each entry to the nearest step moves two vectors of length `entries` at L2 distance `sensitivity` apart by
    at most `sqrt(entries)` more steps; noise of `2^GRID_BITS` steps is larger by that share. An infinite sensitivity
    stands for values that are not rounded to the nearest step.

    Raises
    ------
    PrivacyError
        If `std` is not a positive number, or so large compared with the sensitivity that the grid is too coarse.
    """
    if not 0 < std < math.inf:
        raise PrivacyError(f"noise multiplier {std:g}: no noise guarantees nothing; give a finite number above 0")
    share = math.sqrt(entries) * std / (2.0**GRID_BITS * sensitivity)
    if not share < 0.5:
        raise PrivacyError(
            f"noise {std / sensitivity:.3g} times the sensitivity is beyond the grid; ask for fewer texts"
        )
    return std / (1 - share) / 2.0**GRID_BITS


def add_gaussian(
    rows: Float[np.ndarray, "rows entries"], *, std: float, sensitivity: float, source: NoiseSource
) -> Float[np.ndarray, "rows entries"]:
    """Round rows to a grid and add discrete Gaussian noise; return float64 multiples of the grid step.

    Accounting uses the ratio of `std`, the standard deviation in each entry, and `sensitivity`, the L2 sensitivity of
    one row, which is released once. Raises PrivacyError if a value is not finite or beyond 2^22 standard deviations.
    """
    step = grid_step(std, sensitivity=sensitivity, entries=rows.shape[1])
    rounded = np.rint(rows.astype(np.float64) / step)
    if not (np.abs(rounded) < LARGEST).all():
        raise PrivacyError("a value is not finite, or too large for its noise; nothing leaves")
    return np.asarray(step * (rounded.astype(np.int64) + source.steps(rows.size).reshape(rows.shape)))
