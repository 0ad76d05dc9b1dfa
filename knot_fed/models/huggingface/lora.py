"""Low-rank adapters on a frozen transformers classifier (LoRA; Hu et al. 2021, arXiv 2106.09685), by PEFT."""

import copy
import re
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from knot_fed.config import LoraConfig
from knot_fed.config.language import ALL_LINEAR
from knot_fed.errors import ModelError
from knot_fed.models.device import Placement
from knot_fed.models.huggingface.lazily import transformers
from knot_fed.models.huggingface.pretrained import unusable
from knot_fed.models.huggingface.transformer import Loaded, TransformerClassifier, load_sequence_classifier
from knot_fed.models.text_classifier import ModelSpec

LEARNING_RATE = 1e-3
WHOLE = ["classifier", "pre_classifier", "score", "classification_head", "pooler", "sequence_summary", "logits_proj"]
"""Layers that are never quantised, since they are trained."""
NAMED_IN_ERRORS = 8
"""Layers that a refusal lists, at most."""


class LoraClassifier(TransformerClassifier):
    """A sequence classifier whose state is its adapters, its classification head, and arrays that its files lack."""

    def __init__(self, spec: ModelSpec, loaded: Loaded) -> None:
        super().__init__(
            spec, loaded.network, loaded.tokenizer, learning_rate=LEARNING_RATE, ready=loaded.ready, notes=loaded.notes
        )
        self.frozen_under_dp_sgd = ()  # what would drown in noise is frozen anyway

    @override
    def state_names(self) -> list[str]:
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]


def check_lora_extra(lora: LoraConfig) -> None:
    """Raise `ModelError`, with the command that installs it, if PEFT or bitsandbytes is needed and missing."""
    if find_spec("peft") is None:
        raise ModelError("trainable = 'lora' needs PEFT, which is not installed; pip install 'knot-fed[lora]'")
    if lora.quantize != "none" and find_spec("bitsandbytes") is None:
        raise ModelError(
            f"lora.quantize = {lora.quantize!r} needs bitsandbytes, which is not installed;"
            " pip install 'knot-fed[quantised]', or use lora.quantize = 'none'"
        )


def build_lora(spec: ModelSpec, chosen: Placement) -> LoraClassifier:
    """Load a classifier as `load_sequence_classifier`, freeze it, and add adapters, which at first change no answer.

    Raises `ModelError` if PEFT is missing, the model cannot be used, or no layer has a name of `lora.targets`.
    """
    lora = spec.lora or LoraConfig()
    check_lora_extra(lora)
    loaded = load_sequence_classifier(spec, quantised=_quantised(lora, chosen))
    network, prefix = loaded.network, f"{loaded.network.base_model_prefix}."
    fresh: list[nn.Parameter] = [
        parameter
        for name, parameter in network.named_parameters()
        if not name.startswith(prefix) or name in loaded.missing
    ]
    if not all(parameter.is_floating_point() for parameter in fresh):
        raise unusable(spec.name, "bitsandbytes quantises layers that are trained", "use lora.quantize = 'none'")
    _add_adapters(spec.name, network, lora)
    for parameter in fresh:
        parameter.requires_grad_(True)
    return LoraClassifier(spec, loaded)


def merged(model: LoraClassifier) -> TransformerClassifier:
    """Return a whole classifier of the same specification, with the adapters added to copies of its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = copy.deepcopy(model.network)
    adapted = [(name, module) for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in adapted:
        module.merge()
        network.set_submodule(name, module.get_base_layer())
    del network.peft_config
    whole = TransformerClassifier(
        model.spec, network.requires_grad_(True), model.tokenizer,
        learning_rate=model.default_learning_rate, ready=model.starts_ready,
    )  # fmt: skip
    whole.autocast_dtype = model.autocast_dtype
    return whole.train(model.training)


def _add_adapters(name: str, network: Any, lora: LoraConfig) -> None:
    import peft

    linear = (nn.Linear, transformers.pytorch_utils.Conv1D)
    prefix = f"{network.base_model_prefix}."
    layers = [
        path for path, module in network.named_modules() if isinstance(module, linear) and path.startswith(prefix)
    ]
    targets = _chosen(layers, lora, network.config.model_type)
    if not targets:
        known = sorted({path.rpartition(".")[2] for path in layers})[:NAMED_IN_ERRORS]
        what = f"no linear layer is called {' or '.join(lora.layers)} (lora.targets)"
        raise unusable(name, what, f"use some of {', '.join(known)}, or all-linear")
    transposed = all(not isinstance(network.get_submodule(path), nn.Linear) for path in targets)
    peft.inject_adapter_in_model(
        peft.LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number
            lora_dropout=lora.dropout, target_modules=targets,
            fan_in_fan_out=transposed,
        ),
        network,
    )  # fmt: skip


def _chosen(layers: Collection[str], lora: LoraConfig, kind: str) -> list[str]:
    """Return the paths of the layers to adapt; where PEFT has no choice for the model's type, all of them."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    wanted = lora.layers or ([] if lora.targets == ALL_LINEAR else USUAL.get(kind, []))
    if not wanted:
        return list(layers)
    found: Callable[[str], Any] = (
        re.compile(wanted).fullmatch
        if isinstance(wanted, str)
        else lambda path: any(f".{path}".endswith(f".{name}") for name in wanted)
    )
    chosen = [path for path in layers if found(path)]
    return chosen if chosen or lora.layers else list(layers)


def _quantised(lora: LoraConfig, chosen: Placement) -> dict[str, Any] | None:
    """Return the arguments of `from_pretrained` that quantise linear layers as they are loaded."""
    if lora.quantize == "none":
        return None
    if lora.quantize == "8bit":
        config = transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=WHOLE)
    else:
        config = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=WHOLE,
            bnb_4bit_compute_dtype=chosen.transformers or torch.float32,
        )  # fmt: skip
    return {"quantization_config": config, "device_map": {"": str(chosen.device)}}
