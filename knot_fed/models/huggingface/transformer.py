"""Transformers classifiers that are trained whole: pretrained ones, and tiny-bert from scratch."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from jaxtyping import Float
from torch import nn
from typing_extensions import override

from knot_fed.errors import ModelError
from knot_fed.models.device import placement
from knot_fed.models.huggingface.label_order import match_head, output_layer
from knot_fed.models.huggingface.lazily import transformers
from knot_fed.models.huggingface.pretrained import load_weights, read_config, unusable
from knot_fed.models.huggingface.text_tokens import cut_notes, load_tokenizer, random_token_items, tokenize
from knot_fed.models.text_classifier import Item, ModelSpec, TextClassifier
from knot_fed.types import Text

VOCABULARY_SIZE = 8000
TINY_BERT_POSITIONS = 512
"""Positions of tiny-bert, at least; more only if the specification asks for longer inputs."""
NO_CLASSIFIER = "use trainable = 'head', or another model"
SPECIAL = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}


def tiny_bert_positions(spec: ModelSpec) -> int:
    """Return the number of positions, each with a trained vector, of tiny-bert."""
    return max(TINY_BERT_POSITIONS, spec.max_length)


class TransformerClassifier(TextClassifier):
    """A transformers sequence classifier with its tokenizer."""

    mixed_precision = True

    def __init__(
        self,
        spec: ModelSpec,
        network: Any,
        tokenizer: Any,
        *,
        learning_rate: float,
        ready: bool,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(spec)
        self.starts_ready = ready
        self._notes = [*notes, *cut_notes(tokenizer, spec)]
        self.network = network
        self.tokenizer = tokenizer
        self.default_learning_rate = learning_rate
        self.frozen_under_dp_sgd = (f"network.{network.base_model_prefix}.embeddings.",)
        self._pad = transformers.DataCollatorWithPadding(tokenizer)
        self._compiled = False

    @override
    def encode(self, texts: Sequence[Text]) -> list[Item]:
        return tokenize(self.tokenizer, texts, max_length=self.spec.max_length)

    @override
    def readings(self, texts: Sequence[Text]) -> list[object]:
        return [item["input_ids"] for item in self.encode(texts)]

    @override
    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        return dict(self._pad(list(items)))

    @override
    def item_length(self, item: Item) -> int:
        return len(item["input_ids"])

    @override
    def random_items(self, generator: np.random.Generator, count: int) -> list[Item]:
        return random_token_items(self.tokenizer, generator, count)

    @property
    @override
    def output_layer(self) -> nn.Linear | None:
        layer = output_layer(self.network, len(self.spec.labels))
        summary = getattr(self.network, "sequence_summary", None)
        bent = summary is not None and layer is summary.summary and not isinstance(summary.activation, nn.Identity)
        return None if bent else layer  # XLM and FlauBERT may apply a tanh after it

    @override
    def forward(self, **batch: torch.Tensor) -> Float[torch.Tensor, "examples classes"]:
        logits: torch.Tensor = self.network(**batch).logits
        return logits

    @override
    def compile_network(self) -> None:
        if placement().compiled and not self._compiled:
            self.network.compile(dynamic=True)  # batches differ in length
            self._compiled = True

    @override
    def notes(self) -> list[str]:
        return list(self._notes)

    def save_pretrained(self, folder: Path) -> None:
        """Save network and tokenizer, which transformers loads without this package."""
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pretrained sequence classifier, its tokenizer, the arrays that its files lack, and notes for the user."""

    network: Any
    tokenizer: Any
    missing: set[str]
    ready: bool  # whether its head was trained on the run's labels
    notes: list[str]


def build_pretrained(spec: ModelSpec) -> TransformerClassifier:
    """Build a pretrained classifier that is trained whole; see `load_sequence_classifier`."""
    loaded = load_sequence_classifier(spec)
    return TransformerClassifier(
        spec, loaded.network, loaded.tokenizer, learning_rate=5e-5, ready=loaded.ready, notes=loaded.notes
    )


def load_sequence_classifier(spec: ModelSpec, *, quantised: dict[str, Any] | None = None) -> Loaded:
    """Load a pretrained classifier, its labels matched by name; an encoder or a head of other size gets a new head.

    `quantised` has the arguments of `from_pretrained` that quantise its layers. Raises `ModelError` if the model cannot
    be fetched or used, or its trained head has other labels.
    """
    config = read_config(spec.name)
    tokenizer = load_tokenizer(spec.name, config)
    if type(config) not in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise unusable(spec.name, f"transformers has no classifier of type {config.model_type!r}", NO_CLASSIFIER)
    wanted = copy.deepcopy(config)
    wanted.id2label = dict(enumerate(spec.labels))
    wanted.label2id = {name: index for index, name in wanted.id2label.items()}
    wanted.problem_type = None
    network, missing = load_weights(
        transformers.AutoModelForSequenceClassification, spec.name, wanted, quantised=quantised
    )
    network.config.pad_token_id = network.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    notes = []
    ready = all(key.startswith(f"{network.base_model_prefix}.") for key in missing)
    if ready:
        match_head(network, config, spec.labels, name=spec.name)
    elif any("ForSequenceClassification" in kind for kind in config.architectures or ()):
        notes = [f"its head of {config.num_labels} label(s) is replaced by a fresh one of {len(spec.labels)}"]
    return Loaded(network, tokenizer, missing, ready, notes)


def build_tiny_bert(spec: ModelSpec) -> TransformerClassifier:
    """Build a BERT with 2 layers of width 128 over the specification's vocabulary, which must not be empty."""
    if not spec.vocabulary:
        raise ModelError("tiny-bert: the specification has no vocabulary; make one with train_vocabulary")
    names = dict(enumerate(spec.labels))
    config = transformers.BertConfig(
        vocab_size=len(spec.vocabulary),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=tiny_bert_positions(spec),
        num_labels=len(names),
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    wordpiece = tokenizers.BertWordPieceTokenizer({word: index for index, word in enumerate(spec.vocabulary)})
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=wordpiece._tokenizer, model_max_length=spec.max_length, **SPECIAL
    )
    return TransformerClassifier(
        spec, transformers.BertForSequenceClassification(config), tokenizer, learning_rate=5e-4, ready=False
    )


def train_vocabulary(texts: Sequence[Text], size: int = VOCABULARY_SIZE) -> tuple[str, ...]:
    """Train a WordPiece vocabulary on public texts; the same texts give the same vocabulary.

    The trainer numbers characters within words in the order of a hash map, and breaks ties by number. Listing them as
    special tokens makes it repeatable.
    """
    wordpiece = tokenizers.BertWordPieceTokenizer()
    singles = [part for text in texts for part in ((text,) if isinstance(text, str) else text)]
    letters = sorted(
        {letter for part in singles for letter in wordpiece.normalizer.normalize_str(part) if not letter.isspace()}
    )
    first = [*SPECIAL.values(), *(f"##{letter}" for letter in letters)]
    wordpiece.train_from_iterator(singles, vocab_size=size, min_frequency=2, special_tokens=first, show_progress=False)
    vocabulary = wordpiece.get_vocab()
    return tuple(sorted(vocabulary, key=vocabulary.__getitem__))
