"""Matching of a trained head's labels with those of the run, by name."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from knot_fed.models.huggingface.pretrained import unusable

GENERIC = re.compile(r"label_?\d+", re.IGNORECASE)
UNREAD = re.compile(r"[\s_-]+")
WITHOUT_HEAD = "save it by AutoModel, without its head"


def label_order(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """Return the index of each of our labels among theirs; None if the names differ.

    Case, spaces, underscores and hyphens are ignored unless they alone distinguish two names.

    Examples
    --------
    >>> label_order(["very_positive", "NEUTRAL", "negative"], ["negative", "neutral", "very positive"])
    [2, 1, 0]
    """
    for read in (str, lambda name: UNREAD.sub("", name.casefold())):
        places = {read(name): place for place, name in enumerate(theirs)}
        wanted = [read(name) for name in ours]
        if len(places) == len(theirs) and sorted(places) == sorted(wanted):
            return [places[name] for name in wanted]
    return None


def match_head(network: Any, config: Any, ours: Sequence[str], *, name: str) -> None:
    """Reorder the outputs of a trained head, as its `config` names them, to match the run's labels `ours`.

    Raises `ModelError` if the names differ or contradict each other, the head is a regression, or no output layer can
    be reordered.
    """
    names = [str(config.id2label[place]) for place in sorted(config.id2label)]
    order = label_order(names, ours)
    if order is None:
        generic = all(GENERIC.fullmatch(label) for label in names)
        given = "has no label names" if generic else f"gives the labels {', '.join(names)}"
        raise unusable(
            name,
            f"its trained head {given} (id2label), where the run has {', '.join(ours)}",
            f"write the run's names into id2label of its config.json in the head's order, or {WITHOUT_HEAD}",
        )
    if config.problem_type == "regression":
        raise unusable(name, "its trained head is one of a regression", WITHOUT_HEAD)
    if sorted(config.id2label) != list(range(len(names))):
        numbered = ", ".join(str(place) for place in sorted(config.id2label))
        raise unusable(name, f"id2label of its config.json numbers its labels {numbered}", "number them from 0")
    said = config.label2id or {}
    if set(said) == set(names) and any(str(said[label]) != str(place) for place, label in enumerate(names)):
        raise unusable(name, "id2label and label2id of its config.json contradict each other", "correct label2id")
    if order == list(range(len(order))):
        return
    outputs = output_layer(network, len(order))
    if outputs is None:
        raise unusable(name, "no linear layer gives its labels, so they keep their order", WITHOUT_HEAD)
    with torch.no_grad():
        for parameter in outputs.parameters():
            parameter.copy_(parameter[order].clone())


def output_layer(network: Any, classes: int) -> nn.Linear | None:
    """Return the last linear layer outside the encoder with `classes` outputs; None if there is none."""
    prefix = f"{network.base_model_prefix}."
    outputs = [
        module
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes and not path.startswith(prefix)
    ]
    return outputs[-1] if outputs else None
