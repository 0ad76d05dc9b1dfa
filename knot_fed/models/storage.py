"""Building classifiers by name, and saving and loading them."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from knot_fed.config import PROMPT
from knot_fed.config.choices import MODELS
from knot_fed.errors import ModelError, writing_failed
from knot_fed.models.constant import CONSTANT, ConstantClassifier
from knot_fed.models.device import CPU, Placement, memory_explained, placement
from knot_fed.models.huggingface.head import FeatureExtractor, HeadClassifier, encoder_identity
from knot_fed.models.huggingface.lora import LoraClassifier, build_lora, merged
from knot_fed.models.huggingface.pretrained import HF, is_path, is_pretrained
from knot_fed.models.huggingface.prompted import build_prompted
from knot_fed.models.huggingface.transformer import (
    TransformerClassifier,
    build_pretrained,
    build_tiny_bert,
    tiny_bert_positions,
)
from knot_fed.models.ngram_bag import NgramBag
from knot_fed.models.plugins import build_plugin, is_plugin_model, plugin_identity
from knot_fed.models.text_classifier import ModelSpec, TextClassifier

SPEC_FILE = "knot_fed.json"
PARAMETERS_FILE = "parameters.safetensors"
ARCHITECTURES = 3
"""Increase when classifiers are built or read differently, so that teachers kept before are trained again."""


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch's generators (initial parameters on the CPU, dropout on a device); restore them afterwards."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed_all(seed)
        yield


def build_classifier(
    spec: ModelSpec, *, seed: int, feature_cache: Path | None = None, device: str = ""
) -> TextClassifier:
    """Build a classifier.

    Parameters
    ----------
    spec
        The model to build.
    seed
        Seed of the parameters that are not pretrained.
    feature_cache
        Folder for features of frozen encoders; None: they are not kept.
    device
        Where it computes, in float32; empty: where and as `use_device` chose.

    Raises
    ------
    ModelError
        If there is no such model, or it cannot be loaded.
    """
    chosen = Placement(torch.device(device)) if device else placement()
    with seeded(seed):
        model = _build(spec, feature_cache, chosen)
    if model.mixed_precision:
        model.autocast_dtype = chosen.transformers
    with memory_explained(spec.name):
        return model.to(chosen.device)


def constant_classifier(spec: ModelSpec, label: int) -> TextClassifier:
    """Return a classifier that gives every text this label, in place of a classifier of the specification."""
    constant = replace(spec, name=CONSTANT, trainable="all", vocabulary=())
    return ConstantClassifier(constant, label).to(placement().device).eval()


def trained_state(model: TextClassifier) -> dict[str, np.ndarray]:
    """Return everything that training changes, that is, all but a frozen encoder, or the frozen base of adapters."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().numpy().copy() for name in model.state_names()}


def load_trained_state(model: TextClassifier, state: Mapping[str, np.ndarray]) -> None:
    """Load a trained state into a classifier of the same specification.

    Raises
    ------
    ModelError
        If names, shapes or dtypes do not fit.
    """
    whole = model.state_dict()
    own = {name: whole[name] for name in model.state_names()}
    wrong = [name for name in own if name not in state or tuple(state[name].shape) != tuple(own[name].shape)]
    if wrong or len(state) != len(own):
        raise ModelError(
            f"{len(wrong)} of {len(own)} arrays do not fit {model.spec.name}; use the same model on both sides"
        )
    try:
        model.load_state_dict(
            {name: torch.from_numpy(np.array(state[name])).to(own[name].dtype) for name in own}, strict=False
        )
    except TypeError:
        raise ModelError(f"the arrays for {model.spec.name} are not numbers; use trained_state") from None


def save_classifier(model: TextClassifier, folder: Path) -> None:
    """Save a classifier; `AutoModelForSequenceClassification.from_pretrained` also loads a whole transformers one.

    Of a model with adapters only these and its classification head are saved; `merge_adapters` gives a whole one.

    Raises
    ------
    ModelError
        If it cannot be written, e.g. if the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(model, TransformerClassifier) and not isinstance(model, LoraClassifier):
            model.save_pretrained(folder)
        else:
            state = {name: np.ascontiguousarray(value) for name, value in trained_state(model).items()}
            save_file(state, folder / PARAMETERS_FILE)
        (folder / SPEC_FILE).write_text(model.spec.to_json(), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = writing_failed(error) if isinstance(error, OSError) else f"{error}; make room on the disk"
        raise ModelError(f"{folder}: the classifier cannot be written: {reason}") from None


def merge_adapters(model: TextClassifier) -> TextClassifier:
    """Return a classifier with its adapters added to its weights, in float32; any other classifier as it is."""
    return merged(model) if isinstance(model, LoraClassifier) else model


def load_classifier(folder: Path, *, feature_cache: Path | None = None) -> TextClassifier:
    """Load a classifier that `save_classifier` wrote.

    Raises
    ------
    ModelError
        If the folder does not contain a classifier.
    """
    spec = read_spec(folder)
    if (folder / PARAMETERS_FILE).is_file():
        _check_encoder(spec, folder)
        model = build_classifier(spec, seed=0, feature_cache=feature_cache)
        try:
            load_trained_state(model, load_file(folder / PARAMETERS_FILE))
        except SafetensorError:
            raise ModelError(f"{folder / PARAMETERS_FILE}: not a safetensors file; save the model again") from None
        return model
    model = build_classifier(replace(spec, name=f"{HF}{folder}", trainable="all", lora=None), seed=0)
    model.spec = spec
    return model


def read_spec(folder: Path) -> ModelSpec:
    """Read the specification of a classifier that `save_classifier` wrote; raises `ModelError` if there is none."""
    try:
        return ModelSpec.from_json((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise ModelError(f"{folder}: no {SPEC_FILE}; give a folder that save_classifier wrote") from None


def _check_encoder(spec: ModelSpec, folder: Path) -> None:
    encoder = Path(spec.name.removeprefix(HF))
    if spec.name.startswith(HF) and is_path(str(encoder)) and not encoder.is_dir():
        built = "has adapters on" if spec.trainable == "lora" else "is a head on the encoder"
        raise ModelError(
            f"{folder}: {built} {encoder}, and that folder is gone; put it back, or write its new"
            f" place into name of {folder / SPEC_FILE} (knot-fed export makes a folder that includes the encoder)",
            refusal="the folder of a frozen encoder is gone; its owner finds which in the client's own log",
        )


def model_identity(spec: ModelSpec) -> list[object]:
    """Return the parts of a specification that shape the classifier, for digests.

    Label names are included only if a pretrained head may be matched by them, and precision only if it is not float32.

    Examples
    --------
    >>> spec = ModelSpec("ngram-bag", "all", ("bad", "good"), paired=False, max_length=128)
    >>> model_identity(spec) == model_identity(replace(spec, max_length=64))
    True
    """
    unread = {"ngram-bag": ("trainable", "max_length", "vocabulary"), "tiny-bert": ("trainable",)}
    left_out = {"name", *unread.get(spec.name, ("vocabulary",))}
    read = {field: value for field, value in sorted(spec.to_mapping().items()) if field not in left_out}
    if not (is_external_model(spec.name) and spec.trainable in ("all", "lora")):
        read["labels"] = len(spec.labels)
    name = plugin_identity(spec.name) if is_plugin_model(spec.name) else encoder_identity(spec.name)
    return [ARCHITECTURES, name, read, *_reduced_precision(spec)]


def same_architecture(spec: ModelSpec, other: ModelSpec) -> bool:
    """Return whether a classifier of one specification can load the trained state of the other.

    Lengths may differ, and the bits of frozen weights under adapters; tiny-bert has a parameter for each position.

    Examples
    --------
    >>> spec = ModelSpec("ngram-bag", "all", ("bad", "good"), paired=False, max_length=128)
    >>> same_architecture(spec, replace(spec, max_length=64)), same_architecture(spec, replace(spec, name="tiny-bert"))
    (True, False)
    >>> tiny = replace(spec, name="tiny-bert")
    >>> same_architecture(tiny, replace(tiny, max_length=512)), same_architecture(tiny, replace(tiny, max_length=1024))
    (True, False)
    """
    lora = spec.lora
    if lora is not None and other.lora is not None:
        lora = lora.model_copy(update={"quantize": other.lora.quantize})
    same_shapes = spec.name != "tiny-bert" or tiny_bert_positions(spec) == tiny_bert_positions(other)
    return same_shapes and replace(spec, max_length=other.max_length, lora=lora) == other


def _reduced_precision(spec: ModelSpec) -> list[str]:
    whole = spec.name == "tiny-bert" or (is_pretrained(spec.name) and spec.trainable != "head")
    dtype = placement().transformers if whole or is_plugin_model(spec.name) else placement().encoders
    return [str(dtype)] if dtype is not None and spec.name not in ("ngram-bag", CONSTANT) else []


def check_model_name(name: str) -> None:
    """Raise `ModelError` for an unknown model name; whether a pretrained model can be loaded is not checked."""
    if name not in MODELS and not is_external_model(name):
        raise ModelError(f"no model {name!r}; use {', '.join(MODELS)}, or your own package.module:function")


def is_external_model(name: str) -> bool:
    """Return whether building a model of this name reads files or the hub, or runs a user's code."""
    return is_pretrained(name) or is_plugin_model(name)


def _build(spec: ModelSpec, feature_cache: Path | None, chosen: Placement) -> TextClassifier:
    if spec.name == CONSTANT:
        return ConstantClassifier(spec)
    check_model_name(spec.name)
    if spec.name == "ngram-bag":
        return NgramBag(spec)
    if spec.name == "tiny-bert":
        return build_tiny_bert(spec)
    if is_plugin_model(spec.name):
        return build_plugin(spec)
    if spec.name.startswith(PROMPT):
        return build_prompted(spec)
    if spec.trainable == "lora":
        return build_lora(spec, chosen)
    if spec.trainable == "head":
        return HeadClassifier(spec, FeatureExtractor(spec, feature_cache, chosen))
    return build_pretrained(spec)
