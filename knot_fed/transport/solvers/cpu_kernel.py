"""The table loss in one pass on a CPU, compiled by Numba: plain torch would write about twenty tensors."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from knot_fed.system.compiled import compiled
from knot_fed.transport.checks import Batch
from knot_fed.transport.ground_cost import DeviceGroundCost


def fused_table_loss(
    batch: Batch, on_device: DeviceGroundCost
) -> tuple[Float[torch.Tensor, "examples"], Float[torch.Tensor, "examples classes"]]:
    """Return `sum_k w_k W(softmax(logits), q_k)` for each example, and its gradient with respect to the logits.

    The batch is float32 on the CPU; the table of the ground cost merges no labels.
    """
    candidates, classes = batch.table_shape(on_device)
    rows, gradients = np.empty(batch.examples, np.float32), np.empty((batch.examples, classes), np.float32)
    arrays = [part.detach().contiguous().numpy() for part in (batch.logits, batch.soft_labels, batch.weights)]
    _kernel(classes, candidates)(*arrays, on_device.vertices.numpy(), rows, gradients)
    return torch.from_numpy(rows), torch.from_numpy(gradients)


@cache
def _kernel(classes: int, candidates: int) -> Callable[..., None]:
    """Compile the kernel for one shape of the table, so that loops are unrolled; takes about half a second."""
    single = np.float32

    def table_loss(
        logits: Any, soft_labels: Any, weights: Any, vertices: Any, rows: Any, gradients: Any
    ) -> None:  # pragma: no cover - compiled
        a, difference, potential = np.empty(classes, single), np.empty(classes, single), np.empty(classes, single)
        for example in range(len(logits)):
            # Softmax a = exp(z - max z) / sum.
            top = logits[example, 0]
            for label in range(1, classes):
                top = max(top, logits[example, label])
            total, loss = single(0), single(0)
            for label in range(classes):
                a[label] = single(math.exp(logits[example, label] - top))
                total += a[label]
            scale = single(1) / total
            for label in range(classes):
                a[label] *= scale
                potential[label] = 0
            for teacher in range(soft_labels.shape[1]):
                # d = a - q; the bits of `pattern` are the labels with d > 0, which select the row of the table.
                pattern = 0
                for label in range(classes):
                    difference[label] = a[label] - soft_labels[example, teacher, label]
                    if difference[label] > 0:
                        pattern += 1 << label
                # W(a, q) = max_h <h, d> over the candidate vertices h of that row; the winner is dW/da.
                best, winner = single(-np.inf), 0
                for candidate in range(candidates):
                    value = single(0)
                    for label in range(classes):
                        value += difference[label] * vertices[pattern, candidate, label]
                    if not value <= best:  # true for NaN, which propagates
                        best, winner = value, candidate
                # loss = sum_k w_k W_k, and p = sum_k w_k h_k is its gradient in a.
                weight = weights[example, teacher]
                loss += weight * best
                for label in range(classes):
                    potential[label] += weight * vertices[pattern, winner, label]
            # Chain rule through the softmax: dloss/dz = a (p - <a, p>).
            mean = single(0)
            for label in range(classes):
                mean += a[label] * potential[label]
            rows[example] = loss
            for label in range(classes):
                gradients[example, label] = a[label] * (potential[label] - mean)

    return compiled(table_loss)
