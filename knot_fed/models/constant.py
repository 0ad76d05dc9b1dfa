"""A constant classifier: the teacher of an owner whose examples all have the same label."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from typing_extensions import override

from knot_fed.models.text_classifier import Item, ModelSpec, TextClassifier
from knot_fed.types import Text

CONSTANT = "constant"
"""Its name in a specification; no configuration can request it."""
SMOOTHING = 0.1
"""Mass that is spread over all labels; fixed, so that it does not reveal the number of examples."""
ONE_LABEL = f"a teacher of one label is a constant, with {SMOOTHING:g} of its mass spread over all labels"


class ConstantClassifier(TextClassifier):
    """The same logits for every text."""

    default_learning_rate = 5e-3
    least_temperature = 1.0  # flattened as other teachers are, and never sharpened

    def __init__(self, spec: ModelSpec, label: int | None = None) -> None:
        super().__init__(spec)
        logits = torch.zeros(len(spec.labels))
        if label is not None:
            spread = SMOOTHING / len(spec.labels)
            logits = torch.full_like(logits, math.log(spread))
            logits[label] = math.log(1 - SMOOTHING + spread)
        self.constant = nn.Parameter(logits)

    @override
    def encode(self, texts: Sequence[Text]) -> list[Item]:
        return [0] * len(texts)

    @override
    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        return {"rows": torch.tensor(items)}

    @override
    def item_length(self, item: Item) -> int:
        return 1

    @override
    def random_items(self, generator: np.random.Generator, count: int) -> list[Item]:
        return [0] * count

    @property
    @override
    def output_layer(self) -> nn.Linear | None:
        return None

    @override
    def forward(self, **batch: torch.Tensor) -> Float[torch.Tensor, "examples classes"]:
        return self.constant.expand(len(batch["rows"]), -1)
