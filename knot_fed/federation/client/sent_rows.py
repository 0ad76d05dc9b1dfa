"""What a client sends of its soft labels: all, or those that changed since the answer that the server holds."""

from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, RecordDict

from knot_fed.config import PrivacyConfig
from knot_fed.config.choices import reports_scores
from knot_fed.federation.client.settings import Client
from knot_fed.federation.wire import exchange
from knot_fed.federation.wire.answer_arrays import (
    AnswerArrays,
    HeldRows,
    answer_arrays,
    changed_rows,
    count_bytes,
    replace_rows,
    take_rows,
)
from knot_fed.federation.wire.envelope import pack_arrays
from knot_fed.privacy.compression import decompress

SENT_ROWS = "sent-rows"


def pack_answer(
    client: Client, reply: exchange.TrainReply, request: exchange.TrainRequest, context: Context
) -> RecordDict:
    """Pack the whole answer, or, under `resend-above`, only what the server does not hold.

    What the server holds after this answer is kept in the node's state until the next round. If the state has another
    answer than the server, e.g. after a restart, all soft labels are sent.
    """
    run = client.run
    whole = sent = answer_arrays(reply.answer, privacy=run.privacy, scored=reports_scores(run.weights.scheme))
    if run.sends_changes:
        held = _held(context, request)
        if held is not None and _layout(held) == _layout(whole):
            changed = _changed(
                held, whole, run.privacy, classes=reply.answer.soft_labels.shape[1], above=run.resend_above
            )
            if count_bytes(changed) < count_bytes(whole):
                sent, whole = changed, replace_rows(held, changed)
        context.state[SENT_ROWS] = pack_arrays(whole)
    return exchange.pack_soft_labels(reply, sent, round_number=request.round)


def _held(context: Context, request: exchange.TrainRequest) -> AnswerArrays | None:
    """Return the arrays in the node's state, if they are those that the server says it holds."""
    record = context.state.get(SENT_ROWS)
    if not request.held or not isinstance(record, ArrayRecord):
        return None
    arrays = {name: array.numpy() for name, array in record.items()}
    held = HeldRows.of(arrays, fingerprint=request.fingerprint, rows=range(request.start, request.stop))
    return arrays if held.digest == request.held else None


def _layout(arrays: AnswerArrays) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _changed(
    held: AnswerArrays, whole: AnswerArrays, privacy: PrivacyConfig, *, classes: int, above: float
) -> dict[str, np.ndarray]:
    """Compare what the server would read from both, i.e. after compression."""
    before, now = (decompress(arrays, privacy.compression, classes=classes) for arrays in (held, whole))
    return take_rows(whole, changed_rows(before, now, above=above))
