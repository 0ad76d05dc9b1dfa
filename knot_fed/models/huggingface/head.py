"""A small head on frozen, mean-pooled encoder features, which are computed once for each text and kept."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float
from torch import nn
from typing_extensions import override

from knot_fed.models.huggingface.feature_cache import ComputeFeatures, KeptFeatures
from knot_fed.models.huggingface.pretrained import HF, load_weights, read_config, unusable
from knot_fed.models.huggingface.text_tokens import cut_notes, load_tokenizer, random_token_items, tokenize
from knot_fed.models.text_classifier import Item, ModelSpec, TextClassifier, pair_features
from knot_fed.types import Text

HIDDEN = 1024
DROPOUT = 0.5
BATCH_SIZE = 64
RANDOM = "random tokens"
CONTENT = (".json", ".safetensors", ".bin", ".txt", ".model")
"""Kinds of files that a pretrained model is read from."""
READING = 2
"""Raised when texts are read otherwise, so that features kept before are computed anew."""


class HeadClassifier(TextClassifier):
    """Layer norm, linear, ReLU, dropout, linear on frozen features; a pair is read as u, v, |u - v| and u * v."""

    default_learning_rate = 1e-3
    starts_ready = False
    frozen_under_dp_sgd = ("head.0.", "head.1.")

    def __init__(self, spec: ModelSpec, features: "FeatureExtractor") -> None:
        super().__init__(spec)
        width = features.width * (4 if spec.paired else 1)
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, len(spec.labels)),
        )
        self._features = features

    @property
    def tokenizer(self) -> Any:
        """The encoder's tokenizer."""
        return self._features.tokenizer

    @override
    def encode(self, texts: Sequence[Text]) -> list[Item]:
        if not self.spec.paired:
            return [(row,) for row in self._features([str(text) for text in texts])]
        first, second = (self._features([text[side] for text in texts]) for side in (0, 1))
        return list(zip(first, second, strict=True))

    @override
    def readings(self, texts: Sequence[Text]) -> list[object]:
        sides = [[text] if isinstance(text, str) else list(text) for text in texts]
        return [[item["input_ids"] for item in self._features.tokenized(parts)] for parts in sides]

    @override
    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        return {
            f"side_{side}": torch.from_numpy(np.stack([item[side] for item in items])) for side in range(len(items[0]))
        }

    @override
    def item_length(self, item: Item) -> int:
        return 1

    @override
    def random_items(self, generator: np.random.Generator, count: int) -> list[Item]:
        sides = [self._features.random(generator, count) for _ in range(2 if self.spec.paired else 1)]
        return list(zip(*sides, strict=True))

    @property
    @override
    def output_layer(self) -> nn.Linear | None:
        layer = self.head[-1]
        return layer if isinstance(layer, nn.Linear) else None

    @override
    def notes(self) -> list[str]:
        return self._features.notes()

    @override
    def forward(self, **batch: torch.Tensor) -> Float[torch.Tensor, "examples classes"]:
        features = pair_features(batch["side_0"], batch["side_1"]) if self.spec.paired else batch["side_0"]
        logits: torch.Tensor = self.head(features)
        return logits


class FeatureExtractor:
    """Mean-pooled last hidden states of a frozen encoder, computed once for each text and kept in a folder.

    The encoder is loaded only when features are missing.

    Parameters
    ----------
    spec
        Names the encoder and the cut.
    folder
        Where features are kept; None: nowhere.
    device
        Where the encoder computes.

    Raises
    ------
    ModelError
        If the encoder cannot be loaded.
    """

    def __init__(self, spec: ModelSpec, folder: Path | None, device: str) -> None:
        self._spec = spec
        self._folder = folder
        self._device = device
        self._config = read_config(spec.name)
        self._encoder: Any = None
        self._tokenizer: Any = None
        try:
            self.width = int(self._config.hidden_size)
        except AttributeError:
            raise unusable(spec.name, "its config.json has no hidden_size", "use another model") from None

    def __call__(self, texts: list[str]) -> Float[np.ndarray, "examples width"]:
        """Return float32 features, computed or kept."""
        return self._kept_or(texts, lambda missing: self._mean_pooled(self.tokenized(missing)))

    def random(self, generator: np.random.Generator, count: int) -> Float[np.ndarray, "examples width"]:
        """Return the features of random token sequences, computed or kept."""
        drawn = enumerate(self._random_items(generator, count))
        items = {f"{RANDOM} {place}: {item['input_ids']}": item for place, item in drawn}
        return self._kept_or(list(items), lambda missing: self._mean_pooled([items[name] for name in missing]))

    def _kept_or(self, names: list[str], compute: ComputeFeatures) -> Float[np.ndarray, "examples width"]:
        if self._folder is None or not names:
            return compute(names)
        described = json.dumps([READING, encoder_identity(self._spec.name), self._spec.max_length])
        return KeptFeatures(self._folder / _digest(described)).features(names, compute)

    def notes(self) -> list[str]:
        """Tell what a user would not expect of the encoder."""
        return cut_notes(self.tokenizer, self._spec)

    def tokenized(self, texts: list[str]) -> list[Item]:
        """Return the token ids of texts, cut at the longest that is read."""
        return tokenize(self.tokenizer, texts, max_length=self._spec.max_length)

    def _random_items(self, generator: np.random.Generator, count: int) -> list[Item]:
        return random_token_items(self.tokenizer, generator, count)

    @property
    def tokenizer(self) -> Any:
        """The encoder's tokenizer, loaded at its first use."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._spec.name, self._config)
        return self._tokenizer

    def _load_encoder(self) -> Any:
        if self._encoder is None:
            alone = type(self._config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING  # without a decoder, as of T5
            auto_class = transformers.AutoModelForTextEncoding if alone else transformers.AutoModel
            two = self._config.is_encoder_decoder and not alone
            model, _ = load_weights(auto_class, self._spec.name, self._config, prefix="encoder." if two else "")
            encoder = model.get_encoder() if two else model
            self._encoder = encoder.eval().to(self._device)
        return self._encoder

    @torch.no_grad()
    def _mean_pooled(self, items: list[Item]) -> Float[np.ndarray, "examples width"]:
        pad, encoder = transformers.DataCollatorWithPadding(self.tokenizer), self._load_encoder()
        pooled = np.zeros((len(items), self.width), dtype=np.float32)
        order = sorted(range(len(items)), key=lambda row: -len(items[row]["input_ids"]))
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            batch = {key: value.to(encoder.device) for key, value in pad([items[row] for row in rows]).items()}
            hidden = encoder(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None].to(hidden)
            pooled[rows] = ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).cpu().numpy()
        return pooled


def encoder_identity(name: str) -> str:
    """Return what tells one pretrained model from another: a folder's content, or the name itself.

    Examples
    --------
    >>> encoder_identity("ngram-bag")
    'ngram-bag'
    """
    folder = Path(name.removeprefix(HF))
    if not name.startswith(HF) or not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.iterdir() if file.suffix in CONTENT and file.is_file()):
        with file.open("rb") as content:
            digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
