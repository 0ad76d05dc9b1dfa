"""Whole transformers classifiers: any pretrained one, and tiny-bert, built from scratch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from jaxtyping import Float
from safetensors import SafetensorError
from torch import nn
from typing_extensions import override

from knot_fed.errors import ModelError
from knot_fed.models.text_classifier import Item, ModelSpec, TextClassifier
from knot_fed.types import Text

HF = "hf:"
RANDOM_TOKENS = (4, 24)
VOCABULARY_SIZE = 8000
UNLOADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""What transformers raises on a folder that is incomplete, damaged or of another version."""
TINY_BERT_POSITIONS = 512
"""Tokens that tiny-bert can read whatever its specification says; more only where that says so."""
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class TransformerClassifier(TextClassifier):
    """A transformers sequence classifier with its tokenizer, trained whole."""

    def __init__(self, spec: ModelSpec, network: Any, tokenizer: Any, *, learning_rate: float) -> None:
        super().__init__(spec)
        self.network = network
        self.tokenizer = tokenizer
        self.default_learning_rate = learning_rate
        self.left_alone_by_dp_sgd = (f"network.{network.base_model_prefix}.embeddings.",)
        self._pad = transformers.DataCollatorWithPadding(tokenizer)

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
        encoder = set(self.network.base_model.modules())
        heads = [module for module in self.network.modules() if module not in encoder and isinstance(module, nn.Linear)]
        return heads[-1] if heads and heads[-1].out_features == len(self.spec.labels) else None

    @override
    def forward(self, **batch: torch.Tensor) -> Float[torch.Tensor, "examples classes"]:
        logits: torch.Tensor = self.network(**batch).logits
        return logits

    def save_pretrained(self, folder: Path) -> None:
        """Write network and tokenizer so that transformers loads them without this package."""
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def build_pretrained(spec: ModelSpec) -> TransformerClassifier:
    """Load a pretrained encoder and put a fresh classification head on it where the labels differ.

    Raises
    ------
    ModelError
        If the name is not a hub id that can be reached or a folder with a model.
    """
    names = dict(enumerate(spec.labels))
    identifier = spec.name.removeprefix(HF)
    try:
        network = transformers.AutoModelForSequenceClassification.from_pretrained(
            identifier,
            num_labels=len(names),
            id2label=names,
            label2id={name: index for index, name in names.items()},
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    except UNLOADABLE as error:
        raise not_loadable(spec.name, error) from None
    return TransformerClassifier(spec, network.float(), load_tokenizer(spec.name), learning_rate=5e-5)


def build_tiny_bert(spec: ModelSpec) -> TransformerClassifier:
    """Build a BERT of 2 layers, 128 wide, over the specification's own vocabulary.

    Raises
    ------
    ModelError
        If the specification has no vocabulary.
    """
    if not spec.vocabulary:
        raise ModelError("tiny-bert: the specification has no vocabulary; make one with train_vocabulary")
    names = dict(enumerate(spec.labels))
    config = transformers.BertConfig(  # type: ignore[call-arg]
        vocab_size=len(spec.vocabulary),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=max(TINY_BERT_POSITIONS, spec.max_length),
        num_labels=len(names),
        id2label=names,
        label2id={name: index for index, name in names.items()},
    )
    wordpiece = tokenizers.BertWordPieceTokenizer({word: index for index, word in enumerate(spec.vocabulary)})
    tokenizer = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=wordpiece._tokenizer, model_max_length=spec.max_length, **SPECIAL
    )
    return TransformerClassifier(
        spec, transformers.BertForSequenceClassification(config), tokenizer, learning_rate=5e-4
    )


def train_vocabulary(texts: Sequence[Text], size: int = VOCABULARY_SIZE) -> tuple[str, ...]:
    """Train a WordPiece vocabulary on public texts; the same texts give the same vocabulary.

    The trainer numbers characters within words in the order of a hash map, and breaks ties by number; naming them
    before it starts makes it repeatable.
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


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer of a pretrained encoder; raises ModelError when it has none."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name.removeprefix(HF), trust_remote_code=False)
    except UNLOADABLE as error:
        raise not_loadable(name, error, what="the tokenizer of ") from None
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # made up where no file of a vocabulary is there
        raise ModelError(f"the tokenizer of model {name!r} has no vocabulary; add its files to the folder")
    return tokenizer


def not_loadable(name: str, error: Exception, *, what: str = "") -> ModelError:
    """Describe a pretrained model, or a part of it, that cannot be loaded."""
    kind = type(error).__name__
    return ModelError(f"{what}model {name!r} cannot be loaded ({kind}); give hf:<hub id or absolute folder>")


def tokenize(tokenizer: Any, texts: Sequence[Text], *, max_length: int) -> list[Item]:
    """Turn single texts or pairs into token ids, cut at `max_length` tokens."""
    if not texts:
        return []
    single = isinstance(texts[0], str)
    columns = [list(texts)] if single else [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=min(max_length, tokenizer.model_max_length))
    return [{key: values[row] for key, values in encoded.items()} for row in range(len(texts))]


def random_token_items(tokenizer: Any, generator: np.random.Generator, count: int) -> list[Item]:
    """Draw sequences of random, not special, token ids between the usual special ones."""
    special = set(tokenizer.all_special_ids)
    ordinary = np.array([index for index in range(len(tokenizer)) if index not in special])
    start, end = ([token] if token is not None else [] for token in (tokenizer.cls_token_id, tokenizer.sep_token_id))
    drawn = [generator.choice(ordinary, size=size).tolist() for size in generator.integers(*RANDOM_TOKENS, size=count)]
    return [
        {"input_ids": start + ids + end, "attention_mask": [1] * (len(start) + len(ids) + len(end))} for ids in drawn
    ]
