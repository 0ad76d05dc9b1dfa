"""A classifier that `knot-fed export` wrote: a small head on the mean of an encoder's last hidden states.

This file needs only torch and transformers. Inputs may be padded on either side, and texts of more than `max_length`
tokens are truncated here as well, so that a tokenizer's truncation changes nothing.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class KnotFedHeadConfig(PretrainedConfig):
    """Configuration of `KnotFedHeadForSequenceClassification`.

    Parameters
    ----------
    encoder
        Configuration of the encoder, with its `model_type`.
    encoder_part
        `model`, `text-encoding` (such as T5's encoder), or `encoder` (of an encoder-decoder).
    feature_width
        Width of the encoder's hidden states.
    head_width
        Width of the head's hidden layer.
    head_dropout
        Dropout of the head in training.
    paired
        Whether an example is a pair of texts; `token_type_ids` is then 1 in the second one.
    max_length
        Most tokens of one text.
    end_tokens
        Special tokens at the end of a text, which truncation keeps.
    """

    model_type = "knot_fed_head"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        encoder_part: str = "model",
        feature_width: int = 384,
        head_width: int = 1024,
        head_dropout: float = 0.5,
        paired: bool = False,
        max_length: int = 128,
        end_tokens: int = 1,
        **common: Any,
    ) -> None:
        self.encoder = encoder
        self.encoder_part = encoder_part
        self.feature_width = feature_width
        self.head_width = head_width
        self.head_dropout = head_dropout
        self.paired = paired
        self.max_length = max_length
        self.end_tokens = end_tokens
        super().__init__(**common)


class KnotFedHeadForSequenceClassification(PreTrainedModel):
    """Layer norm, linear, ReLU, dropout, linear on mean-pooled features; a pair becomes u, v, |u - v| and u * v."""

    config_class = KnotFedHeadConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: KnotFedHeadConfig) -> None:
        super().__init__(config)
        self.num_labels = len(config.id2label or ())
        self.encoder = _make_encoder(config)
        width = config.feature_width * (4 if config.paired else 1)
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.head_width),
            nn.ReLU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(config.head_width, self.num_labels),
        )
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return logits, and the cross-entropy if labels are given."""
        real = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()
        if not self.config.paired:
            features = self._features(input_ids, real, token_type_ids)
        elif token_type_ids is None:
            raise ValueError("this model reads pairs: give token_type_ids, as its own tokenizer returns them")
        else:
            second = token_type_ids.bool()
            u, v = self._features(input_ids, real & ~second), self._features(input_ids, real & second)
            features = torch.cat([u, v, (u - v).abs(), u * v], dim=1)
        logits = self.head(features)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _features(
        self, input_ids: torch.Tensor, real: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean hidden state of one text: its tokens, which are contiguous, are moved to the left."""
        if input_ids.shape[1] == 0:  # a tokenizer without special tokens gives an empty text no token
            input_ids = input_ids.new_zeros((len(input_ids), 1)).long()
            real = torch.zeros_like(input_ids).bool()
        last, most = input_ids.shape[1] - 1, self.config.max_length
        length = real.sum(dim=1, keepdim=True)
        kept = length.clamp(min=1, max=most)
        width = (
            most if torch.onnx.is_in_onnx_export() else int(kept.max())
        )  # padding costs time, and changes the rounding
        place = torch.arange(input_ids.shape[1], device=input_ids.device)[None, :width]
        beyond = torch.where(place >= kept - self.config.end_tokens, length - kept, 0)  # tokens to leave out
        source = (real.int().argmax(dim=1, keepdim=True) + place + beyond).clamp(0, last)
        mask = (place < kept).to(input_ids.dtype)
        ids = input_ids.gather(1, source).masked_fill(place >= length, self.config.pad_token_id)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids.gather(1, source)
        hidden = self.encoder(**inputs).last_hidden_state
        weights = mask[:, :, None].to(hidden)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def _make_encoder(config: KnotFedHeadConfig) -> nn.Module:
    encoder_config = AutoConfig.for_model(**(config.encoder or {"model_type": "bert"}))
    auto_class = AutoModelForTextEncoding if config.encoder_part == "text-encoding" else AutoModel
    model = auto_class.from_config(encoder_config)
    return model.get_encoder() if config.encoder_part == "encoder" else model
