"""A trial of a pretrained model or plug-in on a few texts, before a run starts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from knot_fed.config.plugins import plugin_error
from knot_fed.errors import ModelError, PluginError
from knot_fed.models.huggingface.lazily import huggingface_hub
from knot_fed.models.huggingface.pretrained import cached_folder, identifier_of, is_path, is_pretrained, unusable
from knot_fed.models.huggingface.text_tokens import all_unknown
from knot_fed.models.inference import predict_logits
from knot_fed.models.plugins import as_model_error, is_plugin_model
from knot_fed.models.storage import build_classifier, is_external_model, load_trained_state, trained_state
from knot_fed.models.text_classifier import ModelSpec, TextClassifier
from knot_fed.types import Text

LONGEST = 1024
"""Approximate limit on the words of the long trial text."""
FEW = 4
"""Texts of the user that are read in addition to the trial texts."""
TOLERANCE = 1e-3
"""Between logits of a text alone and in a batch, relative to the largest one."""
SAME = 1e-6
"""Difference between logits of different texts, relative to the largest one, that counts as none in float32."""
SHORT = "good"
LONG = "The battery lasts two days, and the screen is bright enough to read outside. "


@dataclass(frozen=True, slots=True)
class Trial:
    """The number of trained parameters, whether all are pretrained, and notes on what a user may not expect."""

    parameters: int
    ready: bool
    notes: tuple[str, ...]


def try_model(spec: ModelSpec, texts: tuple[Text, ...] = ()) -> Trial | None:
    """Build a classifier, and let it read short, long and a few of the public `texts`, alone and in a batch.

    Returns None if the model has to be fetched from the hub first.

    Raises
    ------
    ModelError
        If it cannot be built, knows no part of the texts, fails on one, or its answer for a text depends on the batch.
    """
    if not is_pretrained(spec.name) or is_path(identifier_of(spec.name)):
        return _tried(spec, texts)
    folder = cached_folder(spec.name)
    if folder is None and huggingface_hub.constants.HF_HUB_OFFLINE:
        return _tried(spec, texts)
    if folder is None:
        return None
    local = f"{spec.name.removesuffix(identifier_of(spec.name))}{folder}"
    try:
        return _tried(replace(spec, name=local), texts)
    except ModelError as error:
        error.args = (str(error).replace(local, spec.name),)
        raise


def is_elsewhere(name: str) -> bool:
    """Return whether a pretrained model has to be fetched from the hub first."""
    remote = is_pretrained(name) and not is_path(identifier_of(name))
    return remote and cached_folder(name) is None and not huggingface_hub.constants.HF_HUB_OFFLINE


@lru_cache(maxsize=64)
def _tried(spec: ModelSpec, texts: tuple[Text, ...]) -> Trial:
    model = build_classifier(spec, seed=0, device="cpu").eval()
    try:
        if is_plugin_model(spec.name):
            _check_shape(model, _trial_texts(spec))
        if is_external_model(spec.name):
            _check_known(model, texts)
            _check_answers(model, [*_trial_texts(spec), *texts[:FEW]])
        if is_plugin_model(spec.name):
            _check_plugin(model, _trial_texts(spec))
        notes = model.notes()
    except (ModelError, PluginError):
        raise
    except Exception as error:
        if is_plugin_model(spec.name):
            with as_model_error():
                raise plugin_error(spec.name, "model", error) from None
        remedy = (
            "use trainable = 'head', or another model"
            if spec.trainable != "head" and spec.prompt is None
            else "use another model"
        )
        raise unusable(spec.name, f"it fails on a batch of trial texts ({type(error).__name__})", remedy) from None
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Trial(count, model.starts_ready, tuple(notes))


def _trial_texts(spec: ModelSpec) -> list[Text]:
    long = LONG * (1 + min(spec.max_length, LONGEST) // len(LONG.split()))
    singles = [SHORT, long, LONG, "<s> [SEP] </s> <|endoftext|> good"]
    return list(zip(singles, singles[::-1], strict=True)) if spec.paired else list(singles)


def _check_known(model: TextClassifier, texts: Sequence[Text]) -> None:
    """Refuse a tokenizer that knows no part of the user's texts."""
    tokenizer = getattr(model, "tokenizer", None)
    parts = [part for text in texts for part in ((text,) if isinstance(text, str) else text)]
    if parts and tokenizer is not None and all_unknown(tokenizer, parts):
        raise unusable(
            model.spec.name,
            f"its tokenizer knows no part of the first {len(texts)} transfer texts",
            "use a model of their language",
        )


def _check_answers(model: TextClassifier, texts: Sequence[Text]) -> None:
    """Refuse a model whose logits are not finite, depend on the rest of the batch, or do not depend on the text."""
    items = model.encode(texts)
    together = predict_logits(model, items)
    alone = np.concatenate([predict_logits(model, model.encode([text])) for text in texts])
    drawn = predict_logits(model, model.random_items(np.random.default_rng(0), 2))
    if not (np.isfinite(together).all() and np.isfinite(alone).all() and np.isfinite(drawn).all()):
        raise unusable(
            model.spec.name, "its logits are not finite", "save its weights in float32, or use another model"
        )
    if np.abs(together - alone).max() > TOLERANCE * np.abs(alone).max():
        raise unusable(
            model.spec.name, "its answer for a text differs in a batch and alone", "use a model that masks its padding"
        )
    if np.ptp(together, axis=0).max() <= SAME * np.abs(together).max():
        raise unusable(model.spec.name, "it answers the same for every text", "use another model")


def _check_shape(model: TextClassifier, texts: Sequence[Text]) -> None:
    """Refuse a plug-in that returns anything but one logit for each text and label."""
    with torch.no_grad():
        found = model.logits(model.encode(texts))
    expected = (len(texts), len(model.spec.labels))
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != expected:
        kind = (
            f"logits of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
        )
        raise unusable(model.spec.name, f"it returned {kind}, expected shape {expected}", "return one logit per label")


def _check_plugin(model: TextClassifier, texts: Sequence[Text]) -> None:
    """Refuse a plug-in without gradients, or that answers differently once saved and loaded."""
    items, name = model.encode(texts), model.spec.name
    model.logits(items).square().sum().backward()  # type: ignore[no-untyped-call]
    if all(parameter.grad is None for parameter in model.parameters()):
        raise unusable(name, "no parameter has a gradient", "compute the logits from its parameters, by torch")
    model.zero_grad()
    again = build_classifier(model.spec, seed=1, device="cpu").eval()
    load_trained_state(again, trained_state(model))
    if not np.array_equal(predict_logits(model, items), predict_logits(again, again.encode(texts))):
        raise unusable(
            name,
            "it answers differently once saved and loaded",
            "keep all of its state in parameters and buffers",
        )
