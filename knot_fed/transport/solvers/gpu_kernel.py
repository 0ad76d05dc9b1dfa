"""The table loss in one Triton kernel, which reads logits and soft labels once and writes the gradient once.

Each program handles a block of examples. The table of vertices is small and stays in the cache; its rows are padded, so
that a thread loads four labels at once and no load of them is masked.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float

from knot_fed.transport.checks import Batch
from knot_fed.transport.ground_cost import DeviceGroundCost

BLOCK = 128


def fused_table_loss(
    batch: Batch, on_device: DeviceGroundCost
) -> tuple[Float[torch.Tensor, "examples"], Float[torch.Tensor, "examples classes"]]:
    """Return `sum_k w_k W(softmax(logits), q_k)` for each example, and its gradient with respect to the logits.

    The batch is float32, on the device of the ground cost, whose table merges no labels.
    """
    candidates, classes = batch.table_shape(on_device)
    rows, gradients = batch.logits.new_empty(batch.examples), batch.logits.new_empty(batch.examples, classes)
    if batch.examples:  # a grid must not be empty
        # Triton launches on the current device, which may be another one.
        with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
            _table_loss[(triton.cdiv(batch.examples, BLOCK),)](
                batch.logits.contiguous(), batch.soft_labels.contiguous(), batch.weights.contiguous(),
                on_device.padded, rows, gradients, batch.examples, batch.teachers,
                classes=classes, candidates=candidates, width=on_device.padded.shape[2], block=BLOCK,
            )  # fmt: skip
    return rows, gradients


# The sizes are not specialised: Triton would compile again for 1, for multiples of 16 and for an epoch's last batch.
# No annotations and no type checks: the compiler reads the former as globals, and the latter hide the globals from it.
@triton.jit(do_not_specialize=["examples", "teachers"])
@no_type_check
def _table_loss(
    logits, soft_labels, weights, vertices, rows, gradients, examples, teachers,
    classes: tl.constexpr, candidates: tl.constexpr, width: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    # The program's first example; int64, since soft labels may have over 2^31 entries, and small offsets from there.
    first = tl.program_id(0).to(tl.int64) * block
    logits += first * classes
    soft_labels += first * teachers * classes
    weights += first * teachers
    rows += first
    gradients += first * classes
    example = tl.arange(0, block)
    label = tl.arange(0, width)  # padded to a power of two
    known = first + example < examples
    here = known[:, None] & (label < classes)[None, :]
    place = example[:, None] * classes + label[None, :]
    # Softmax a = exp(z - max z) / sum; padded labels are -inf and get 0, padded rows 0 to avoid NaN.
    z = tl.load(logits + place, mask=here, other=float("-inf"))
    z = tl.where(known[:, None], z, 0.0)
    a = tl.exp(z - tl.max(z, axis=1)[:, None])
    a = a / tl.sum(a, axis=1)[:, None]
    loss = tl.zeros((block,), dtype=tl.float32)
    potential = tl.zeros((block, width), dtype=tl.float32)
    for teacher in range(teachers):
        # d = a - q; the bits of `pattern` are the labels with d > 0, which select the row of the table.
        asked = (example * teachers + teacher)[:, None] * classes + label[None, :]
        difference = tl.where(here, a - tl.load(soft_labels + asked, mask=here, other=0.0), 0.0)
        pattern = tl.sum(tl.where(difference > 0, 1 << label[None, :], 0), axis=1)
        candidate_rows = vertices + (pattern * candidates * width)[:, None] + label[None, :]
        # W(a, q) = max_h <h, d> over the candidate vertices h; the winner is the gradient of W in a.
        best = tl.full((block,), float("-inf"), dtype=tl.float32)
        winner = tl.zeros((block,), dtype=tl.int32)
        for candidate in range(candidates):
            value = tl.sum(difference * tl.load(candidate_rows + candidate * width), axis=1)
            stays = value <= best  # false for NaN, which propagates
            best = tl.where(stays, best, value)
            winner = tl.where(stays, winner, candidate)
        # loss = sum_k w_k W_k, and p = sum_k w_k h_k is its gradient in a.
        weight = tl.load(weights + example * teachers + teacher, mask=known, other=0.0)
        loss += weight * best
        potential += weight[:, None] * tl.load(candidate_rows + (winner * width)[:, None])
    # Chain rule through the softmax: dloss/dz = a (p - <a, p>).
    gradient = a * (potential - tl.sum(a * potential, axis=1)[:, None])
    tl.store(rows + example, loss, mask=known)
    tl.store(gradients + place, gradient, mask=here)
