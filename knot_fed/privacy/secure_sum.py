"""Arithmetic of the secure sum: weighted soft labels as integers, masks that cancel, and the sum read back.

All values are unsigned words of 32 or 64 bits, whose sums wrap: a value plus a uniform mask is uniform.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from jaxtyping import Float, UInt

from knot_fed.errors import ConfigError, FederationError, SoftLabelsError
from knot_fed.types import SoftLabels

Words: TypeAlias = UInt[np.ndarray, "texts columns"]
WORDS = (np.dtype("<u4"), np.dtype("<u8"))
MASK_KEY_BYTES = 32
ROW_TOLERANCE = 2e-4
FLOOR = 1 << 14
"""Least weight, in units: if all scores are 0, all teachers weigh the same and their mean is still within 1e-4."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How weights and weighted soft labels become integers whose sum over all parties cannot overflow.

    Raises ConfigError if the sum could need more than 64 bits.
    """

    bits: int  # the largest weight is `2^bits` units
    bound: float  # largest weight, > 0
    parties: int  # maximum number of summands

    def __post_init__(self) -> None:
        if self.parties << self.bits >= 1 << 64:
            raise ConfigError(
                f"secure sum: {self.parties} values of {self.bits} bits do not fit a word of 64;"
                f" set privacy.sum-bits to {63 - self.parties.bit_length()} or less"
            )

    @property
    def word(self) -> np.dtype[Any]:
        """The smallest unsigned dtype that holds the sum."""
        return WORDS[0] if self.parties << self.bits < 1 << 32 else WORDS[1]

    @property
    def scale(self) -> float:
        """Units per weight of one."""
        return 2.0**self.bits / self.bound


def default_threshold(clients: int) -> int:
    """Return the smallest number of clients above two thirds."""
    return 2 * clients // 3 + 1


def check_threshold(threshold: int, *, clients: int) -> None:
    """Raise ConfigError if one client's two secrets could both be reconstructed.

    A server that tells half of the clients that a peer vanished and the other half that it did not gets shares of both
    its secrets; never enough of both if the threshold is more than half of the clients.
    """
    if not (2 * threshold > clients and 2 <= threshold <= clients):
        raise ConfigError(
            f"privacy.threshold = {threshold} with {clients} client(s): not more than half of them and at least 2, or"
            f" more than all; use {max(2, clients // 2 + 1)} to {clients}, or 0 for more than two thirds"
        )


def quantise(soft_labels: SoftLabels, weights: Float[np.ndarray, "texts"], quantisation: Quantisation) -> Words:
    """Return `w q` for each label and `w` in the last column, rounded to the nearest unit.

    `soft_labels` q and `weights` w in [0, bound] are of one teacher, one per text; w is at least `FLOOR` units. Raises
    SoftLabelsError if a value is out of range: nothing is clipped, and nothing overflows.
    """
    within = np.isfinite(weights) & (weights >= 0) & (weights <= quantisation.bound)
    if not within.all():
        raise SoftLabelsError(
            f"{int((~within).sum())} of {len(weights)} weights outside 0..{quantisation.bound:.6g}, the range of the"
            " secure sum; use another weights.scheme"
        )
    if not (np.isfinite(soft_labels).all() and (soft_labels >= 0).all() and (soft_labels <= 1 + 1e-6).all()):
        raise SoftLabelsError("soft labels outside 0..1 cannot be summed; apply softmax first")
    units = np.maximum(np.rint(weights.astype(np.float64) * quantisation.scale), float(FLOOR))
    shares = np.minimum(soft_labels.astype(np.float64), 1.0) * units[:, None]
    return np.column_stack([np.rint(shares), units]).astype(quantisation.word)


def dequantise(
    total: Words, quantisation: Quantisation
) -> tuple[Float[np.ndarray, "texts classes"], Float[np.ndarray, "texts"]]:
    """Return `sum_k w_k q_k` and `sum_k w_k` from a sum of quantised values.

    Raises FederationError if a row of the first does not add up to the second within rounding, or the weight is below
    `FLOOR`: a mask is still on.
    """
    weighted, weights = total[:, :-1].astype(np.float64), total[:, -1].astype(np.float64)
    rounding = quantisation.parties * (weighted.shape[1] + 1) / 2 + weights * ROW_TOLERANCE
    off = (np.abs(weighted.sum(axis=1) - weights) > rounding) | (weights < FLOOR)
    if off.any():
        raise FederationError(
            f"secure sum: {int(off.sum())} of {len(off)} rows do not add up to their weights, so that a mask is still"
            " on or a client sent no soft labels; nothing of it is used, run again"
        )
    return weighted / quantisation.scale, weights / quantisation.scale


def weighed(
    weights: Float[np.ndarray, "texts"], quantisation: Quantisation, *, summands: int
) -> Float[np.ndarray, "texts"]:
    """Return 1 for each text that a party weighed above `FLOOR`, and 0 for others, from the sum of the weights."""
    above: Float[np.ndarray, texts] = (weights * quantisation.scale > summands * FLOOR + 0.5).astype(np.float64)
    return above


def expand_mask(key: bytes, *, rows: int, columns: int, word: np.dtype[Any]) -> Words:
    """Return a mask, uniform over all words, from the keystream of ChaCha20 under a 32-byte key with nonce zero.

    A key serves one mask only.

    Examples
    --------
    >>> int(expand_mask(bytes(32), rows=1, columns=1, word=np.dtype("<u4"))[0, 0]) == 0xADE0B876
    True
    """
    if len(key) != MASK_KEY_BYTES:
        raise ValueError(f"a mask key has {MASK_KEY_BYTES} bytes, this one {len(key)}")
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(rows * columns * word.itemsize)), dtype=word).reshape(rows, columns)


def add_masks(values: Words, *, plus: Iterable[Words], minus: Iterable[Words]) -> Words:
    """Add and subtract masks modulo the word size; swapping both lists undoes it."""
    masked = values.copy()
    for mask in plus:
        masked += mask
    for mask in minus:
        masked -= mask
    return masked
