"""A model of your own as teachers and student: `flower-simulation 'model=own_model:build'` in this folder.

It is any `torch.nn.Module` with a tokenizer behind `knot_fed.models.TextClassifier`; this one is a small convolutional
network over letters.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from knot_fed.models import ModelSpec, TextClassifier

ALPHABET = " abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
LETTERS = {letter: place for place, letter in enumerate(ALPHABET, start=2)}  # 0 pads, 1 is any other letter
LONGEST = 300
SEPARATOR = " - "


class LetterNetwork(TextClassifier):
    """Letters, embedded and convolved; a text is the maximum over its places."""

    default_learning_rate = 5e-3  # where teacher.learning-rate or distill.learning-rate is 0
    starts_ready = False  # True for a model that comes trained: teacher.epochs = 0 then uses it as it is

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.embedding = nn.Embedding(len(ALPHABET) + 2, 16, padding_idx=0)
        self.convolution = nn.Conv1d(16, 64, kernel_size=5)
        self.output = nn.Linear(64, len(spec.labels))

    def encode(self, texts: Sequence[str | tuple[str, str]]) -> list[list[int]]:
        """Turn each text, or pair of texts, into numbers of letters; called once for each text."""
        joined = [text if isinstance(text, str) else SEPARATOR.join(text) for text in texts]
        return [[LETTERS.get(letter, 1) for letter in text.lower()[:LONGEST]] for text in joined]

    def collate(self, items: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        """Make one batch of items, which are padded; the keys are the arguments of `forward`."""
        width = max(5, *map(len, items))
        return {"letters": torch.tensor([item + [0] * (width - len(item)) for item in items])}

    def item_length(self, item: list[int]) -> int:
        """Return what an item costs, so that items of like length share a batch."""
        return len(item)

    def random_items(self, generator: np.random.Generator, count: int) -> list[list[int]]:
        """Draw items that say nothing; the prediction bias is measured on them."""
        return [generator.integers(2, len(ALPHABET) + 2, size=80).tolist() for _ in range(count)]

    @property
    def output_layer(self) -> nn.Linear | None:
        """The layer that gives the logits, by which they are calibrated; None is allowed."""
        return self.output

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        """Return logits; no text may depend on how far a batch pads it."""
        found = self.convolution(self.embedding(letters).transpose(1, 2)).relu()
        inside = (letters[:, 4:] > 0)[:, None]  # windows that hold no padding; the first one counts always
        inside[:, :, 0] = True
        return self.output(found.masked_fill(~inside, 0.0).amax(dim=2))


def build(spec: ModelSpec) -> LetterNetwork:
    """Return a new model for a specification; torch's random generator is seeded."""
    return LetterNetwork(spec)
