"""A plug-in model for teachers and student: run `flower-simulation 'model=own_model:build'` in this folder.

A plug-in implements `knot_fed.models.TextClassifier`: a `torch.nn.Module` with its tokenizer. This one is a small
convolutional network over letters.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from knot_fed.models import ModelSpec, TextClassifier

ALPHABET = " abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
LETTERS = {letter: place for place, letter in enumerate(ALPHABET, start=2)}  # 0: padding, 1: any other character
LONGEST = 300
SEPARATOR = " - "


class LetterNetwork(TextClassifier):
    """Embeds and convolves letters, and takes the maximum over positions."""

    default_learning_rate = 5e-3  # used if teacher.learning-rate or distill.learning-rate is 0
    starts_ready = False  # True for a trained model, which teacher.epochs = 0 uses without training

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.embedding = nn.Embedding(len(ALPHABET) + 2, 16, padding_idx=0)
        self.convolution = nn.Conv1d(16, 64, kernel_size=5)
        self.output = nn.Linear(64, len(spec.labels))

    def encode(self, texts: Sequence[str | tuple[str, str]]) -> list[list[int]]:
        """Convert each text, or pair of texts, to indices of letters; called once per text."""
        joined = [text if isinstance(text, str) else SEPARATOR.join(text) for text in texts]
        return [[LETTERS.get(letter, 1) for letter in text.lower()[:LONGEST]] for text in joined]

    def collate(self, items: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        """Pad items to a batch; the keys are the arguments of `forward`."""
        width = max(5, *map(len, items))
        return {"letters": torch.tensor([item + [0] * (width - len(item)) for item in items])}

    def item_length(self, item: list[int]) -> int:
        """Return the length of an item; items of similar length share a batch."""
        return len(item)

    def random_items(self, generator: np.random.Generator, count: int) -> list[list[int]]:
        """Draw random items, on which the prediction bias is measured."""
        return [generator.integers(2, len(ALPHABET) + 2, size=80).tolist() for _ in range(count)]

    @property
    def output_layer(self) -> nn.Linear | None:
        """The layer that computes the logits, for calibration; may be None."""
        return self.output

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        """Return logits, which must not depend on padding."""
        found = self.convolution(self.embedding(letters).transpose(1, 2)).relu()
        inside = (letters[:, 4:] > 0)[:, None]  # windows without padding, and always the first
        inside[:, :, 0] = True
        return self.output(found.masked_fill(~inside, 0.0).amax(dim=2))


def build(spec: ModelSpec) -> LetterNetwork:
    """Return a new model; torch's random generator is already seeded."""
    return LetterNetwork(spec)
