"""A small head on frozen, mean-pooled encoder features, which are computed once per text and stored."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from typing_extensions import override

from knot_fed.models.device import Placement, autocast, memory_explained, placement
from knot_fed.models.huggingface.feature_cache import ComputeFeatures, FeatureCache
from knot_fed.models.huggingface.lazily import transformers
from knot_fed.models.huggingface.pretrained import identifier_of, is_pretrained, load_weights, read_config, unusable
from knot_fed.models.huggingface.text_tokens import cut_notes, load_tokenizer, random_token_items, tokenize
from knot_fed.models.items import take
from knot_fed.models.text_classifier import Item, ModelSpec, TextClassifier, pair_features
from knot_fed.types import Text

HIDDEN = 1024
DROPOUT = 0.5
BATCH_SIZE = 64
TOKENS_ON_GPU = 1 << 15
"""Tokens of a batch on a GPU, with padding; it needs larger batches than a CPU."""
RANDOM = "random tokens"
CONTENT = (".json", ".safetensors", ".bin", ".txt", ".model")
"""Suffixes of the files that define a pretrained model."""
EncoderPart: TypeAlias = Literal["model", "text-encoding", "encoder"]
FileVersion: TypeAlias = tuple[int, int, int, int]
"""Inode, size, and times of the last change in nanoseconds."""
SHORT = 64
"""Tokens of a label name, at most."""
READING = 2
"""Increase when texts are read differently, so that stored features are computed again."""


class HeadClassifier(TextClassifier):
    """Layer norm, linear, ReLU, dropout, linear on frozen features; a pair becomes u, v, |u - v| and u * v."""

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

    @property
    def encoder(self) -> "LoadedEncoder":
        """The frozen encoder with its configuration, loaded if it was not before."""
        return self._features.encoder

    @override
    def encode(self, texts: Sequence[Text]) -> list[Item]:
        if not self.spec.paired:
            return [(row,) for row in self._features([str(text) for text in texts])]
        first, second = (self._features([text[side] for text in texts]) for side in (0, 1))
        return list(zip(first, second, strict=True))

    @property
    @override
    def frozen_features(self) -> Callable[[Sequence[Text]], Float[np.ndarray, "texts width"]]:
        return lambda texts: np.stack([np.concatenate(item) for item in self.encode(texts)])

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
        return cut_notes(self.tokenizer, self.spec)

    @override
    def forward(self, **batch: torch.Tensor) -> Float[torch.Tensor, "examples classes"]:
        features = pair_features(batch["side_0"], batch["side_1"]) if self.spec.paired else batch["side_0"]
        logits: torch.Tensor = self.head(features)
        return logits


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """A frozen encoder, the configuration of the model that it belongs to, and which part of that it is."""

    network: Any
    config: Any
    part: EncoderPart


class FeatureExtractor:
    """Mean-pooled last hidden states of a frozen encoder, computed once per text and stored in `folder`, if given.

    The encoder is loaded when features are missing; a `ModelError` is raised if it cannot be.
    """

    def __init__(self, spec: ModelSpec, folder: Path | None, chosen: Placement) -> None:
        self._spec = spec
        self._folder = folder
        self._chosen = chosen
        self._config = read_config(spec.name)
        try:
            self.width = int(self._config.hidden_size)
        except AttributeError:
            raise unusable(spec.name, "its config.json has no hidden_size", "use another model") from None

    def __call__(self, texts: list[str]) -> Float[np.ndarray, "examples width"]:
        """Return float32 features, computed or stored."""
        return self._kept_or(texts, lambda missing: self._mean_pooled(self.tokenized(missing)))

    def random(self, generator: np.random.Generator, count: int) -> Float[np.ndarray, "examples width"]:
        """Return the features of random token sequences, computed or stored."""
        drawn = enumerate(random_token_items(self.tokenizer, generator, count))
        items = {f"{RANDOM} {place}: {item['input_ids']}": item for place, item in drawn}
        return self._kept_or(list(items), lambda missing: self._mean_pooled([items[name] for name in missing]))

    def _kept_or(self, names: list[str], compute: ComputeFeatures) -> Float[np.ndarray, "examples width"]:
        if self._folder is None or not names:
            return compute(names)
        described = [READING, encoder_identity(self._spec.name), self._spec.max_length]
        described += [str(self._chosen.encoders)] if self._chosen.encoders is not None else []
        digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
        return FeatureCache(self._folder / digest).features(names, compute)

    def tokenized(self, texts: list[str]) -> list[Item]:
        """Return the token ids of texts, truncated at the specification's length."""
        return tokenize(self.tokenizer, texts, max_length=self._spec.max_length)

    @cached_property
    def tokenizer(self) -> Any:
        """The encoder's tokenizer."""
        return load_tokenizer(self._spec.name, self._config)

    @cached_property
    def encoder(self) -> "LoadedEncoder":
        """The frozen encoder with its configuration."""
        encoder_only = type(self._config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING  # such as T5's encoder
        auto_class = transformers.AutoModelForTextEncoding if encoder_only else transformers.AutoModel
        has_decoder = self._config.is_encoder_decoder and not encoder_only
        prefix = "encoder." if has_decoder else ""
        model, _ = load_weights(auto_class, self._spec.name, self._config, prefix=prefix)
        network = (model.get_encoder() if has_decoder else model).eval().to(self._chosen.device)
        part: EncoderPart = "text-encoding" if encoder_only else "encoder" if has_decoder else "model"
        return LoadedEncoder(network, self._config, part)

    @torch.no_grad()
    def _mean_pooled(self, items: list[Item]) -> Float[np.ndarray, "examples width"]:
        pad, device = transformers.DataCollatorWithPadding(self.tokenizer), self._chosen.device
        pooled = np.zeros((len(items), self.width), dtype=np.float32)
        order = sorted(range(len(items)), key=lambda row: -len(items[row]["input_ids"]))
        start, encoder = 0, self.encoder.network
        with memory_explained(self._spec.name):
            while start < len(order):
                longest = len(items[order[start]]["input_ids"])
                size = max(1, TOKENS_ON_GPU // longest) if device.type == "cuda" else BATCH_SIZE
                rows, start = order[start : start + size], start + size
                batch = {key: value.to(device) for key, value in pad(list(take(items, rows))).items()}
                with autocast(device, self._chosen.encoders):
                    hidden = encoder(**batch).last_hidden_state
                hidden = hidden if self._chosen.encoders is None else hidden.float()
                mask = batch["attention_mask"][:, :, None].to(hidden)
                pooled[rows] = ((hidden * mask).sum(dim=1) / mask.sum(dim=1)).cpu().numpy()
        return pooled


def mean_pooled_features(name: str, texts: list[str]) -> Float[np.ndarray, "examples width"]:
    """Return float32 mean-pooled last hidden states of a few texts; raises ModelError if the model is no encoder."""
    spec = ModelSpec(name, "head", (), paired=False, max_length=SHORT)
    return FeatureExtractor(spec, None, placement())(texts)


def encoder_identity(name: str) -> str:
    """Return what identifies a pretrained model: a digest of a local folder's content, or the name itself.

    Examples
    --------
    >>> encoder_identity("ngram-bag")
    'ngram-bag'
    """
    folder = Path(identifier_of(name))
    if not is_pretrained(name) or not folder.is_dir():
        return name
    files = sorted(file for file in folder.iterdir() if file.suffix in CONTENT and file.is_file())
    return _digest_of(tuple((file, _version(file.stat())) for file in files))


def _version(status: os.stat_result) -> FileVersion:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=16)
def _digest_of(files: tuple[tuple[Path, FileVersion], ...]) -> str:
    """Return a digest of the files; each version is read once by a process, since every encoding asks for it."""
    digest = hashlib.sha256()
    for file, _ in files:
        with file.open("rb") as content:
            digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
