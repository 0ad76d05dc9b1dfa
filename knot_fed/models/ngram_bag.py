"""A bag of hashed word and character n-grams with a linear head: thousands of examples per second on one core."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn
from typing_extensions import override

from knot_fed.models.text_classifier import Item, ModelSpec, TextClassifier, pair_features
from knot_fed.types import Text

BUCKETS = 1 << 16
WIDTH = 32
DROPOUT = 0.2
RANDOM_NGRAMS = (10, 80)
Bag: TypeAlias = Int[np.ndarray, "ngrams"]


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
        half = {"n_features": BUCKETS // 2, "alternate_sign": False, "norm": None, "binary": True, "dtype": np.float32}
        self._words = HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]", **half)
        self._characters = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **half)

    @override
    def encode(self, texts: Sequence[Text]) -> list[Item]:
        if not texts:
            return []
        if not self.spec.paired:
            return [(bag,) for bag in self._bags([str(text) for text in texts])]
        first, second = (self._bags([text[side] for text in texts]) for side in (0, 1))
        return list(zip(first, second, strict=True))

    @override
    def readings(self, texts: Sequence[Text]) -> list[object]:
        return [[np.sort(bag).tolist() for bag in item] for item in self.encode(texts)]

    @override
    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = {}
        for side in range(len(items[0])):
            bags = [item[side] for item in items]
            sizes = np.array([len(bag) for bag in bags])
            batch[f"ids_{side}"] = torch.from_numpy(np.concatenate(bags).astype(np.int64))
            batch[f"offsets_{side}"] = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64))
            shares = np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes)
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

    def _bags(self, texts: list[str]) -> list[Bag]:
        words, characters = self._words.transform(texts), self._characters.transform(texts)
        return [
            np.concatenate(
                [
                    words.indices[words.indptr[row] : words.indptr[row + 1]],
                    characters.indices[characters.indptr[row] : characters.indptr[row + 1]] + BUCKETS // 2,
                ]
            )
            for row in range(len(texts))
        ]
