"""Batches of items in a given order; for a GPU they are collated ahead, in pinned memory."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

import torch

from knot_fed.models.device import device_of
from knot_fed.models.items import take
from knot_fed.models.text_classifier import Item, Positions, TextClassifier

AHEAD = 2
"""Batches that are collated while a GPU computes."""
Batch: TypeAlias = dict[str, torch.Tensor]
_Rows = TypeVar("_Rows", bound=Positions)


def batches(model: TextClassifier, items: Sequence[Item], parts: Iterable[_Rows]) -> Iterator[tuple[_Rows, Batch]]:
    """Yield the positions and the batch of each part, in order, for `TextClassifier.batch_logits`."""
    if device_of(model).type == "cuda":
        yield from _ahead(model, items, parts, pinned=True)
        return
    for rows in parts:
        yield rows, model.collate(take(items, rows))


def _ahead(
    model: TextClassifier, items: Sequence[Item], parts: Iterable[_Rows], *, pinned: bool
) -> Iterator[tuple[_Rows, Batch]]:
    """Collate in one thread, so that batches are made one after another in their order."""

    def collated(rows: _Rows) -> Batch:
        batch = model.collate(take(items, rows))
        return {key: value.pin_memory() if value.is_cpu else value for key, value in batch.items()} if pinned else batch

    with ThreadPoolExecutor(1) as pool:
        waiting: deque[tuple[_Rows, Future[Batch]]] = deque()
        for rows in parts:
            waiting.append((rows, pool.submit(collated, rows)))
            if len(waiting) > AHEAD:
                first, batch = waiting.popleft()
                yield first, batch.result()
        for rows, batch in waiting:
            yield rows, batch.result()
