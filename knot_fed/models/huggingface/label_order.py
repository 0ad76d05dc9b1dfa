"""The labels of a trained classification head, matched by name with those of a run."""

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
    """Return the place of each of our labels among theirs; None: they are not the same.

    Case, spaces, underscores and hyphens count only where names differ by nothing else.

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
    """Put the outputs of a trained head into the order of our labels.

    Parameters
    ----------
    network
        With the head as its files have it.
    config
        What those say of it.
    ours
        Label names of the run.
    name
        Of the model, with `hf:`.

    Raises
    ------
    ModelError
        If the names differ, are contradictory, or are those of a regression, or there is no output layer to reorder.
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
        raise unusable(name, "id2label and label2id of its config.json contradict each other", "mend label2id")
    if order != list(range(len(order))):
        _reorder(network, order, name=name)


def _reorder(network: Any, order: list[int], *, name: str) -> None:
    outputs = output_layer(network, len(order))
    if outputs is None:
        raise unusable(name, "no linear layer gives its labels, so they keep their order", WITHOUT_HEAD)
    with torch.no_grad():
        for parameter in outputs.parameters():
            parameter.copy_(parameter[order].clone())


def output_layer(network: Any, classes: int) -> nn.Linear | None:
    """Return the last linear layer outside the encoder that gives so many logits; None: there is none."""
    prefix = f"{network.base_model_prefix}."
    outputs = [
        module
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes and not path.startswith(prefix)
    ]
    return outputs[-1] if outputs else None
