"""The table loss in one Triton kernel, which reads logits and soft labels once and writes the gradient once.

Each program handles a block of examples. The table of vertices is small and stays in the cache.
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
                on_device.vertices, rows, gradients, batch.examples, batch.teachers,
                classes=classes, candidates=candidates, width=triton.next_power_of_2(classes), block=BLOCK,
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
    # Rows of this program and labels, padded to a power of two; int64, since soft labels may have over 2^31 entries.
    example = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    label = tl.arange(0, width)
    here = (example < examples)[:, None] & (label < classes)[None, :]
    place = example[:, None] * classes + label[None, :]
    # Softmax a = exp(z - max z) / sum; padded labels are -inf and get 0, padded rows 0 to avoid NaN.
    z = tl.load(logits + place, mask=here, other=float("-inf"))
    z = tl.where((example < examples)[:, None], z, 0.0)
    a = tl.exp(z - tl.max(z, axis=1)[:, None])
    a = a / tl.sum(a, axis=1)[:, None]
    loss = tl.zeros((block,), dtype=tl.float32)
    potential = tl.zeros((block, width), dtype=tl.float32)
    for teacher in range(teachers):
        # d = a - q; the bits of `pattern` are the labels with d > 0, which select the row of the table.
        asked = (example * teachers + teacher)[:, None] * classes + label[None, :]
        difference = tl.where(here, a - tl.load(soft_labels + asked, mask=here, other=0.0), 0.0)
        pattern = tl.sum(tl.where(difference > 0, 1 << label[None, :], 0), axis=1)
        # W(a, q) = max_h <h, d> over the candidate vertices h; the winner is the gradient of W in a. NaN propagates.
        best = tl.full((block,), float("-inf"), dtype=tl.float32)
        winner = tl.zeros((block, width), dtype=tl.float32)
        for candidate in range(candidates):
            at = (pattern * candidates + candidate)[:, None] * classes + label[None, :]
            vertex = tl.load(vertices + at, mask=here, other=0.0)
            value = tl.sum(difference * vertex, axis=1)
            better = (value > best) | (value != value)
            best = tl.where(better, value, best)
            winner = tl.where(better[:, None], vertex, winner)
        # loss = sum_k w_k W_k, and p = sum_k w_k h_k is its gradient in a.
        weight = tl.load(weights + example * teachers + teacher, mask=example < examples, other=0.0)
        loss += weight * best
        potential += weight[:, None] * winner
    # Chain rule through the softmax: dloss/dz = a (p - <a, p>).
    gradient = a * (potential - tl.sum(a * potential, axis=1)[:, None])
    tl.store(rows + example, loss, mask=example < examples)
    tl.store(gradients + place, gradient, mask=here)
