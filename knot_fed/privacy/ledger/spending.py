"""What a client's releases have cost: in one run, in life, and in secure sums of the same text."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from knot_fed.data.transfer_set import TextKeys
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.ledger.entry import LedgerEntry

KeysOf: TypeAlias = Callable[[LedgerEntry], TextKeys]
"""Returns the keys of an entry's texts."""


def spent_in_life(entries: Sequence[LedgerEntry], unit: str) -> list[NoiseEvent | None]:
    """Return the cost of all releases for one `record` or the whole `client`; None: no guarantee, or lost lines."""
    return [entry.spent(unit) for entry in entries if entry.fresh or entry.parameters or entry.unknown]


def spent_in_run(entries: Sequence[LedgerEntry], unit: str, *, keys_of: KeysOf) -> list[NoiseEvent | None]:
    """Return the cost of the entries of one run (`of_run`); the same teacher, or the same noisy row, counts once.

    A teacher or a row that was drawn again in the run, because the stored one was deleted, counts again.
    """
    events: list[NoiseEvent | None] = []
    released = [entry for entry in entries if entry.texts or entry.parameters or entry.unknown]
    for name in dict.fromkeys(entry.answer for entry in released):
        same = [entry for entry in released if entry.answer == name]
        event = same[0].spent(unit)
        if event is not None and same[0].of_teacher:
            events += [event] * max(sum(entry.fresh > 0 for entry in same), 1)
        elif event is not None:
            events.append(NoiseEvent(event.noise_multiplier, _rows_drawn(same, keys_of)))
        else:
            events.append(None)
    return events


def _rows_drawn(entries: Sequence[LedgerEntry], keys_of: KeysOf) -> int:
    """Count the noisy rows that left in a run: each text once, and again if it was drawn again."""
    seen, rows = set[bytes](), 0
    for entry in entries:
        unseen = set(map(bytes, keys_of(entry))) - seen
        rows += max(len(unseen), entry.fresh)
        seen |= unseen
    return rows


def of_run(entries: Sequence[LedgerEntry], run: str) -> list[LedgerEntry]:
    """Return the entries of one run, and records of lost lines that may belong to it.

    Lost lines may belong to a run unless the ledger shows that it started later.
    """
    begun = next((place for place, entry in enumerate(entries) if entry.run == run), -1)
    return [entry for place, entry in enumerate(entries) if entry.run == run or (entry.unknown and place > begun)]


def most_sums(keys: TextKeys, entries: Sequence[LedgerEntry], *, run: str, keys_of: KeysOf) -> tuple[float, float]:
    """Return the largest number of secure sums, in one run and in all, that any of these texts has entered.

    Lost lines count as infinitely many, in a run only if it had started before.
    """
    asked = set(map(bytes, keys))
    in_run, in_life = Counter[bytes](), Counter[bytes]()
    for entry in entries:
        if entry.summed:
            again = asked.intersection(map(bytes, keys_of(entry)))
            in_life.update(again)
            in_run.update(again if entry.run == run else ())
    return _most(in_run, of_run(entries, run)), _most(in_life, entries)


def _most(counted: Mapping[bytes, int], entries: Sequence[LedgerEntry]) -> float:
    return math.inf if any(entry.unknown for entry in entries) else float(max(counted.values(), default=0))
