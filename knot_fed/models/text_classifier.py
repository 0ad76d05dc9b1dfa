"""The interface of all classifiers: encode texts into items once, batch items, and compute logits."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from knot_fed.config import LoraConfig, PromptConfig
from knot_fed.errors import ModelError
from knot_fed.labels import MOST_LABELS
from knot_fed.models.device import autocast, device_of
from knot_fed.types import Text

LONGEST_INPUT = 8192
LARGEST_VOCABULARY = 50_000
LONGEST_NAME = 4096
Item: TypeAlias = Any
"""One encoded text, in a form that depends on the classifier."""
Positions: TypeAlias = Sequence[int] | np.ndarray
"""Positions of items in a list."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything that is needed to build a classifier, except its trained parameters.

    Parameters
    ----------
    name
        `ngram-bag`, `tiny-bert`, `hf:<hub id or absolute folder>`, `prompt:<hub id or absolute folder>`, or a plug-in
        `package.module:function`.
    trainable
        Of an `hf:` model: `all`, `head` (a small head on frozen features) or `lora` (low-rank adapters and the
        classification head); other models are always trained whole.
    labels
        Label names, in index order.
    paired
        Whether an example is a pair of texts.
    max_length
        Tokens per example; longer ones are truncated.
    vocabulary
        WordPiece vocabulary of `tiny-bert`.
    lora
        Adapters of `trainable = "lora"`.
    prompt
        Template and label words of a `prompt:` model.
    """

    name: str
    trainable: str
    labels: tuple[str, ...]
    paired: bool
    max_length: int
    vocabulary: tuple[str, ...] = ()
    lora: LoraConfig | None = None
    prompt: PromptConfig | None = None

    def to_mapping(self) -> dict[str, Any]:
        """Return all fields as JSON values, without `lora` and `prompt` where there is none."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("lora", "prompt"):
            settings = values.pop(name)
            values |= {} if settings is None else {name: settings.model_dump()}
        return values

    def to_json(self) -> str:
        """Return the specification as canonical JSON."""
        return json.dumps(self.to_mapping(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Parse the output of `to_json`; raise `ModelError` if it is malformed or out of bounds."""
        try:
            values: dict[str, Any] = json.loads(text)
            values |= {key: tuple(str(value) for value in values[key]) for key in ("labels", "vocabulary")}
            values["lora"] = LoraConfig.model_validate(values["lora"]) if "lora" in values else None
            values["prompt"] = PromptConfig.model_validate(values["prompt"]) if "prompt" in values else None
            spec = cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ModelError(
                "the model specification is not what ModelSpec.to_json writes; save the model again"
            ) from None
        if not isinstance(spec.name, str) or type(spec.max_length) is not int or not isinstance(spec.paired, bool):
            raise ModelError("the model specification has fields of wrong types; save the model again")
        if spec.trainable not in ("all", "head", "lora") or not 0 < spec.max_length <= LONGEST_INPUT:
            raise ModelError(f"the model specification trains no known part, or reads not 1 to {LONGEST_INPUT} tokens")
        for what, found, most in (
            ("characters in its name", spec.name, LONGEST_NAME),
            ("labels", spec.labels, MOST_LABELS),
            ("words", spec.vocabulary, LARGEST_VOCABULARY),
        ):
            if len(found) > most:
                raise ModelError(f"the model specification has more than {most} {what}; use fewer")
        return spec


class TextClassifier(nn.Module, ABC):
    """A classifier of single texts or pairs; its state holds exactly what training changes."""

    default_learning_rate: float
    starts_ready: bool = True
    """Whether all of its parameters are pretrained, so that `teacher.epochs = 0` may use it as it is."""
    frozen_under_dp_sgd: tuple[str, ...] = ()
    """Name prefixes of parameters that DP-SGD freezes, since noise on that many would drown the others."""
    trains: bool = True
    """Whether training changes it; a prompted model answers as it is."""
    least_temperature: float = 0.0
    """Lowest temperature that divides the logits of its answers."""
    mixed_precision: bool = False
    """Whether it keeps its accuracy under autocast to bfloat16, as transformers do."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.autocast_dtype: torch.dtype | None = None

    @abstractmethod
    def encode(self, texts: Sequence[Text]) -> Sequence[Item]:
        """Turn texts into items, once per text for all epochs."""

    @property
    def frozen_features(self) -> Callable[[Sequence[Text]], Float[np.ndarray, "texts width"]] | None:
        """Returns a row of features for each text that no training changes; None if there are none."""
        return None

    def readings(self, texts: Sequence[Text]) -> Iterable[object]:
        """Return what the model reads of each text as JSON values; texts with equal ones get the same answer.

        Override it if the model reads less than the whole text: a secure sum counts distinct texts by it.
        """
        return texts

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Combine items into one padded batch."""

    @abstractmethod
    def item_length(self, item: Item) -> int:
        """Return the length of an item, by which inference batches similar ones."""

    @abstractmethod
    def random_items(self, generator: np.random.Generator, count: int) -> list[Item]:
        """Draw items of random tokens, which are unrelated to any label."""

    def state_names(self) -> list[str]:
        """Return the names of the arrays that training changes; by default all of its state."""
        return list(self.state_dict())

    def notes(self) -> list[str]:
        """Return sentences on what a user may not expect of the classifier."""
        return []

    @abstractmethod
    def forward(self, **batch: torch.Tensor) -> Float[torch.Tensor, "examples classes"]:
        """Return logits for a batch."""

    @property
    @abstractmethod
    def output_layer(self) -> nn.Linear | None:
        """The layer that computes the logits; None if it is unknown."""

    def divide_logits(self, temperature: float) -> bool:
        """Divide the output layer's parameters, and thus all logits; return False if there is no such layer."""
        layer = self.output_layer
        if layer is None:
            return False
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.div_(temperature)
        return True

    def compile_network(self) -> None:
        """Compile the network by torch where `compile` asks for it; by default there is nothing to compile."""
        return

    def logits(self, items: Sequence[Item]) -> Float[torch.Tensor, "examples classes"]:
        """Return logits for items, computed on the parameters' device."""
        return self.batch_logits(self.collate(items))

    def batch_logits(self, batch: dict[str, torch.Tensor]) -> Float[torch.Tensor, "examples classes"]:
        """Return logits for a batch; under autocast they are converted back to float32, as losses read them."""
        device = device_of(self)
        with autocast(device, self.autocast_dtype):
            output: torch.Tensor = self(**{key: value.to(device, non_blocking=True) for key, value in batch.items()})
        return output if self.autocast_dtype is None else output.float()


def check_ready(name: str, *, ready: bool) -> None:
    """Raise `ModelError` for a model, not `ready`, that `teacher.epochs = 0` would use without training."""
    if not ready:
        raise ModelError(
            f"teacher.epochs = 0 uses a model as it is, and {name!r} starts from random parameters; use an"
            " hf: model with a trained head of the run's labels, or teacher.epochs = 1 or more, or for the student"
            " student.pretrain = false"
        )


def pair_features(
    u: Float[torch.Tensor, "examples width"], v: Float[torch.Tensor, "examples width"]
) -> Float[torch.Tensor, "examples pair_width"]:
    """Concatenate the features of two texts as u, v, |u - v| and u * v (InferSent; Conneau et al. 2017)."""
    return torch.cat([u, v, (u - v).abs(), u * v], dim=1)
