"""A classifier that `knot-fed export` wrote: a bag of hashed n-grams with a linear head.

This file needs only torch and transformers; `tokenization_knot_fed_ngrams.py` beside it turns texts into n-grams.
"""

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class KnotFedNgramsConfig(PretrainedConfig):
    """Configuration of `KnotFedNgramsForSequenceClassification`.

    Parameters
    ----------
    vocab_size
        Buckets of n-grams, and one for padding.
    width
        Width of the embeddings.
    dropout
        Dropout in training.
    paired
        Whether an example is a pair of texts; `token_type_ids` is then 1 in the second one.
    """

    model_type = "knot_fed_ngrams"

    def __init__(
        self,
        vocab_size: int = (1 << 16) + 1,
        width: int = 32,
        dropout: float = 0.2,
        paired: bool = False,
        **common: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.width = width
        self.dropout = dropout
        self.paired = paired
        super().__init__(**common)


class KnotFedNgramsForSequenceClassification(PreTrainedModel):
    """The sum of a text's embeddings over the root of their number; a pair becomes u, v, |u - v| and u * v."""

    config_class = KnotFedNgramsConfig
    base_model_prefix = "embedding"

    def __init__(self, config: KnotFedNgramsConfig) -> None:
        super().__init__(config)
        self.num_labels = len(config.id2label or ())
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width * (4 if config.paired else 1), self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return logits, and the cross-entropy if labels are given."""
        rows = self.embedding(input_ids.long())  # the tensor of an empty list has floats
        real = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()
        if not self.config.paired:
            features = _bag(rows, real)
        elif token_type_ids is None:
            raise ValueError("this model reads pairs: give token_type_ids, as its own tokenizer returns them")
        else:
            second = token_type_ids.bool()
            u, v = _bag(rows, real & ~second), _bag(rows, real & second)
            features = torch.cat([u, v, (u - v).abs(), u * v], dim=1)
        logits = self.head(self.dropout(features))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _bag(rows: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    shares = real.to(rows) / real.sum(dim=1, keepdim=True).clamp(min=1).to(rows).sqrt()
    return (rows * shares[:, :, None]).sum(dim=1)
