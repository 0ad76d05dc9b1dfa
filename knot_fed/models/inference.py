"""Batched inference, and the number of torch threads."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from knot_fed.models.batches import batches
from knot_fed.models.device import memory_explained
from knot_fed.models.items import longest_first
from knot_fed.models.text_classifier import Item, TextClassifier
from knot_fed.system.machine import usable_cpus
from knot_fed.types import Text


def use_threads(count: int) -> None:
    """Set the number of torch threads; 0: `OMP_NUM_THREADS`, which Ray sets, or else the CPUs of this process."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(count or (int(given) if given.isdigit() and int(given) else usable_cpus()))


def predict_logits(
    model: TextClassifier, items: Sequence[Item], *, batch_size: int = 256
) -> Float[np.ndarray, "examples classes"]:
    """Return float32 logits for items in the given order; batches hold items of similar length."""
    logits = np.zeros((len(items), len(model.spec.labels)), dtype=np.float32)
    order = longest_first(items, model.item_length)
    model.eval()
    parts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    with torch.no_grad(), memory_explained(model.spec.name):
        for rows, batch in batches(model, items, parts):
            logits[rows] = model.batch_logits(batch).float().cpu().numpy()
    return logits


def output_features(model: TextClassifier, texts: Sequence[Text]) -> Float[np.ndarray, "examples width"] | None:
    """Return float32 features of texts as they enter the model's output layer; None if that layer is unknown."""
    layer = model.output_layer
    if layer is None:
        return None
    items = model.encode(texts)
    features, taken = np.zeros((len(items), layer.in_features), dtype=np.float32), list[torch.Tensor]()

    def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        taken.append(inputs[0].detach().float().cpu())

    hook = layer.register_forward_pre_hook(keep)
    order = longest_first(items, model.item_length)
    model.eval()
    try:
        with torch.no_grad(), memory_explained(model.spec.name):
            for rows, batch in batches(
                model, items, (order[start : start + 256] for start in range(0, len(order), 256))
            ):
                model.batch_logits(batch)
                features[rows] = taken.pop().reshape(len(rows), -1).numpy()
    finally:
        hook.remove()
    return features
