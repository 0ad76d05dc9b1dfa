"""A bag of hashed word and character n-grams with a linear head: thousands of examples per second on one core."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from typing_extensions import override

from knot_fed.models.items import Ragged, RaggedItems
from knot_fed.models.ngram_hashing import BUCKETS, NgramHasher
from knot_fed.models.text_classifier import Item, ModelSpec, TextClassifier, pair_features
from knot_fed.types import Text

WIDTH = 32
DROPOUT = 0.2
RANDOM_NGRAMS = (10, 80)


class NgramBag(TextClassifier):
    """Embedding bag over hashed n-grams: words 1 to 2, characters within words 3 to 5 (after fastText, 2017)."""

    default_learning_rate = 5e-3
    starts_ready = False
    frozen_under_dp_sgd = ("embedding.",)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.embedding = nn.EmbeddingBag(BUCKETS, WIDTH, mode="sum")
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(WIDTH * (4 if spec.paired else 1), len(spec.labels))
        self._hasher = NgramHasher()

    @override
    def encode(self, texts: Sequence[Text]) -> RaggedItems:
        sides = [[text[side] for text in texts] for side in (0, 1)] if self.spec.paired else [list(map(str, texts))]
        return RaggedItems(tuple(self._hasher.bags(side) for side in sides))

    @override
    def readings(self, texts: Sequence[Text]) -> Iterable[object]:
        return ([bag.tolist() for bag in item] for item in self.encode(texts))

    @override
    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = {}
        sides = items.sides if isinstance(items, RaggedItems) else [_ragged(bags) for bags in zip(*items, strict=True)]
        for side, bags in enumerate(sides):
            batch[f"ids_{side}"] = torch.from_numpy(bags.joined().astype(np.int64))
            batch[f"offsets_{side}"] = torch.from_numpy(np.cumsum(bags.sizes) - bags.sizes)
            shares = np.repeat(1 / np.sqrt(np.maximum(bags.sizes, 1)), bags.sizes)
            batch[f"shares_{side}"] = torch.from_numpy(shares.astype(np.float32))
        return batch

    @override
    def item_length(self, item: Item) -> int:
        return sum(len(bag) for bag in item)

    @override
    def random_items(self, generator: np.random.Generator, count: int) -> list[Item]:
        sides = 2 if self.spec.paired else 1
        sizes = generator.integers(*RANDOM_NGRAMS, size=(count, sides))
        return [tuple(generator.integers(0, BUCKETS, size=size) for size in row) for row in sizes]

    @property
    @override
    def output_layer(self) -> nn.Linear | None:
        return self.head

    @override
    def forward(self, **batch: torch.Tensor) -> Float[torch.Tensor, "examples classes"]:
        sides = [
            self.embedding(batch[f"ids_{side}"], batch[f"offsets_{side}"], per_sample_weights=batch[f"shares_{side}"])
            for side in range(2 if self.spec.paired else 1)
        ]
        features = pair_features(*sides) if self.spec.paired else sides[0]
        logits: torch.Tensor = self.head(self.dropout(features))
        return logits


def _ragged(bags: Sequence[np.ndarray]) -> Ragged:
    return Ragged.of_sizes(np.concatenate(bags), np.array([len(bag) for bag in bags], dtype=np.int64))
