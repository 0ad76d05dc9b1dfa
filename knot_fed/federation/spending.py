"""What a client's releases have cost so far: in one run, in life, and in secure sums of the same text."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from knot_fed.data.transfer_set import TextKeys
from knot_fed.federation.ledger_entry import LedgerEntry
from knot_fed.privacy.accounting import NoiseEvent

KeysOf: TypeAlias = Callable[[LedgerEntry], TextKeys]
"""Gives the keys of the texts that an entry tells of."""


def spent_in_life(entries: Sequence[LedgerEntry], unit: str) -> list[NoiseEvent | None]:
    """Return what all releases cost one `record` or the whole `client`; None: no guarantee, or lines were lost."""
    return [entry.spent(unit) for entry in entries if entry.fresh or entry.parameters or entry.unknown]


def spent_in_run(entries: Sequence[LedgerEntry], unit: str, *, keys_of: KeysOf) -> list[NoiseEvent | None]:
    """Return what the entries of one run cost, where the same teacher, or the same text's noisy row, counts once.

    Parameters
    ----------
    entries
        Of one run, answers kept from earlier runs among them.
    unit
        `record` or `client`.
    keys_of
        Tells the texts of an entry.
    """
    events: list[NoiseEvent | None] = []
    for name in dict.fromkeys(entry.answer for entry in entries):
        same = [entry for entry in entries if entry.answer == name]
        event = same[0].spent(unit)
        if event is not None and same[0].mechanism != "dp-sgd":
            texts = np.unique(np.concatenate([keys_of(entry) for entry in same]), axis=0)
            event = NoiseEvent(event.noise_multiplier, len(texts))
        events.append(event)
    return events


def most_sums(keys: TextKeys, entries: Sequence[LedgerEntry], *, run: str, keys_of: KeysOf) -> tuple[int, int]:
    """Return how many secure sums of one run, and of all, the most summed of some texts has entered."""
    asked = set(map(bytes, keys))
    in_run, in_life = Counter[bytes](), Counter[bytes]()
    for entry in entries:
        if entry.summed:
            again = asked.intersection(map(bytes, keys_of(entry)))
            in_life.update(again)
            in_run.update(again if entry.run == run else ())
    return max(in_run.values(), default=0), max(in_life.values(), default=0)
