"""What every classifier can do: turn texts into items once, batch items, and give logits."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from knot_fed.errors import ModelError
from knot_fed.labels import MOST_LABELS
from knot_fed.types import Text

LONGEST_INPUT = 8192
LARGEST_VOCABULARY = 50_000
LONGEST_NAME = 4096
Item: TypeAlias = Any
"""One encoded text, in the form that its classifier likes."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything that builds a classifier, apart from its trained parameters.

    Parameters
    ----------
    name
        `ngram-bag`, `tiny-bert`, `hf:<hub id or absolute folder>`, or a user's own `package.module:function`.
    trainable
        `all`, or `head`: a small head on frozen features of an `hf:` encoder; the others are always trained whole.
    labels
        Label names, in index order.
    paired
        Whether an example is a pair of texts.
    max_length
        Tokens of one example, beyond which it is cut.
    vocabulary
        WordPiece vocabulary of `tiny-bert`.
    """

    name: str
    trainable: str
    labels: tuple[str, ...]
    paired: bool
    max_length: int
    vocabulary: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the specification as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Parse what `to_json` wrote.

        Raises
        ------
        ModelError
            If the text is not a model specification, or one of absurd size.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            fields |= {key: tuple(str(value) for value in fields[key]) for key in ("labels", "vocabulary")}
            spec = cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ModelError(
                "the model specification is not what ModelSpec.to_json writes; save the model again"
            ) from None
        if not isinstance(spec.name, str) or type(spec.max_length) is not int or not isinstance(spec.paired, bool):
            raise ModelError("the model specification has fields of wrong types; save the model again")
        if spec.trainable not in ("all", "head") or not 0 < spec.max_length <= LONGEST_INPUT:
            raise ModelError(f"the model specification trains no known part, or reads not 1 to {LONGEST_INPUT} tokens")
        if len(spec.name) > LONGEST_NAME:
            raise ModelError(
                f"the model specification names its model in more than {LONGEST_NAME} characters; cut the name"
            )
        if len(spec.labels) > MOST_LABELS or len(spec.vocabulary) > LARGEST_VOCABULARY:
            raise ModelError(
                f"the model specification has more than {MOST_LABELS} labels or {LARGEST_VOCABULARY} words; use fewer"
            )
        return spec


class TextClassifier(nn.Module, ABC):
    """A classifier of single texts or pairs; its state holds exactly what training changes."""

    default_learning_rate: float
    starts_ready: bool = True
    """Whether it is built trained, so that `teacher.epochs = 0` may use it as it is."""
    frozen_under_dp_sgd: tuple[str, ...] = ()
    """Beginnings of the names of parameters that DP-SGD keeps as they are: noise on so many would drown the rest."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def encode(self, texts: Sequence[Text]) -> list[Item]:
        """Turn texts into items; done once for each text, whatever the number of epochs."""

    def readings(self, texts: Sequence[Text]) -> list[object]:
        """Return what is read of each text, in lists that JSON can hold; texts with equal ones get the same answer.

        The whole text, unless a model that reads less of it says so: a secure sum counts texts by it.
        """
        return list(texts)

    @abstractmethod
    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Put items into one batch, padded to the longest of them."""

    @abstractmethod
    def item_length(self, item: Item) -> int:
        """Return what an item costs, so that inference can batch items of like length."""

    @abstractmethod
    def random_items(self, generator: np.random.Generator, count: int) -> list[Item]:
        """Draw items of random tokens, which say nothing about any label."""

    def notes(self) -> list[str]:
        """Tell what a user would not expect of the classifier."""
        return []

    @abstractmethod
    def forward(self, **batch: torch.Tensor) -> Float[torch.Tensor, "examples classes"]:
        """Return logits for a batch."""

    @property
    @abstractmethod
    def output_layer(self) -> nn.Linear | None:
        """The layer that gives the logits; None where that is not known."""

    def divide_logits(self, temperature: float) -> bool:
        """Divide all logits from now on, in the parameters of the output layer; tells whether it could be done."""
        layer = self.output_layer
        if layer is None:
            return False
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.div_(temperature)
        return True

    def logits(self, items: Sequence[Item]) -> Float[torch.Tensor, "examples classes"]:
        """Return logits for items, computed where the parameters are."""
        device = next(self.parameters()).device
        batch = {key: value.to(device) for key, value in self.collate(items).items()}
        output: torch.Tensor = self(**batch)
        return output


def check_ready(name: str, *, ready: bool) -> None:
    """Refuse a model with random parameters where `teacher.epochs = 0` trains nothing.

    Parameters
    ----------
    name, ready
        Of the model, and its `starts_ready`.

    Raises
    ------
    ModelError
        If not all of its parameters are trained ones.
    """
    if not ready:
        raise ModelError(
            f"teacher.epochs = 0 uses a model as it is, and {name!r} starts from random parameters; use an"
            " hf: model with a trained head of the run's labels, or teacher.epochs = 1 or more, or for the student"
            " student.pretrain = false"
        )


def pair_features(
    u: Float[torch.Tensor, "examples width"], v: Float[torch.Tensor, "examples width"]
) -> Float[torch.Tensor, "examples pair_width"]:
    """Join the features of two texts as u, v, |u - v| and u * v (Conneau et al. 2017; InferSent)."""
    return torch.cat([u, v, (u - v).abs(), u * v], dim=1)
