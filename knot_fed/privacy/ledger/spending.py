"""What a client's releases have cost so far: in one run, in life, and in secure sums of the same text."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from knot_fed.data.transfer_set import TextKeys
from knot_fed.privacy.accounting import NoiseEvent
from knot_fed.privacy.ledger.entry import LedgerEntry

KeysOf: TypeAlias = Callable[[LedgerEntry], TextKeys]
"""Gives the keys of the texts that an entry tells of."""


def spent_in_life(entries: Sequence[LedgerEntry], unit: str) -> list[NoiseEvent | None]:
    """Return what all releases cost one `record` or the whole `client`; None: no guarantee, or lines were lost."""
    return [entry.spent(unit) for entry in entries if entry.fresh or entry.parameters or entry.unknown]


def spent_in_run(entries: Sequence[LedgerEntry], unit: str, *, keys_of: KeysOf) -> list[NoiseEvent | None]:
    """Return what the entries of one run cost, where the same teacher, or the same text's noisy row, counts once.

    A teacher or a row that was drawn again in the run, since the kept one was gone, counts again.

    Parameters
    ----------
    entries
        Of one run as `of_run` gives them, answers kept from earlier runs among them.
    unit
        `record` or `client`.
    keys_of
        Tells the texts of an entry.
    """
    events: list[NoiseEvent | None] = []
    told = [entry for entry in entries if entry.texts or entry.parameters or entry.unknown]
    for name in dict.fromkeys(entry.answer for entry in told):
        same = [entry for entry in told if entry.answer == name]
        event = same[0].spent(unit)
        if event is not None and same[0].of_teacher:
            events += [event] * max(sum(entry.fresh > 0 for entry in same), 1)
        elif event is not None:
            events.append(NoiseEvent(event.noise_multiplier, _rows_drawn(same, keys_of)))
        else:
            events.append(None)
    return events


def _rows_drawn(entries: Sequence[LedgerEntry], keys_of: KeysOf) -> int:
    """Count the noisy rows that a run was given: each text once, and once more where it was drawn again."""
    seen, rows = set[bytes](), 0
    for entry in entries:
        unseen = set(map(bytes, keys_of(entry))) - seen
        rows += max(len(unseen), entry.fresh)
        seen |= unseen
    return rows


def of_run(entries: Sequence[LedgerEntry], run: str) -> list[LedgerEntry]:
    """Return the entries of one run, and those that tell of lost lines which may be its own.

    They may be where nothing says that the run began later, as the line does that binds it to its transfer set.
    """
    begun = next((place for place, entry in enumerate(entries) if entry.run == run), -1)
    return [entry for place, entry in enumerate(entries) if entry.run == run or (entry.unknown and place > begun)]


def most_sums(keys: TextKeys, entries: Sequence[LedgerEntry], *, run: str, keys_of: KeysOf) -> tuple[float, float]:
    """Return how many secure sums of one run, and of all, the most summed of some texts has entered.

    Lost lines may tell of any sum: they count as infinitely many, in a run if it had begun before.
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
