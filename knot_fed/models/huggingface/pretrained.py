"""Loading of pretrained models; those that cannot be used are refused in one sentence."""

import json
from pathlib import Path
from typing import Any

from knot_fed.config import PROMPT
from knot_fed.errors import ModelError
from knot_fed.models.huggingface.exported import EXPORTED_TYPES
from knot_fed.models.huggingface.lazily import huggingface_hub, transformers

HF = "hf:"
HUB_PARTS = 2
"""Most parts of a hub id: owner and name."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
COPY = "copy the folder anew, or give another hf:<hub id or absolute folder>"
ASK_THE_HUB = "check the hub id and the network, or give hf:<absolute folder> with a copy"
OTHER_START = "give its encoder, or load the run's own student with knot_fed.load_student"
POINTER = b"version https://git-lfs"
LARGEST_POINTER = 1024
"""Most bytes of a git-lfs pointer file."""
VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip


def unusable(name: str, what: str, remedy: str) -> ModelError:
    """Return the error for a pretrained model that cannot be used; a peer sees only its name."""
    return ModelError(
        f"model {name!r}: {what}; {remedy}",
        refusal=f"model {name!r} cannot be used here; its owner finds why in the client's own log",
    )


def identifier_of(name: str) -> str:
    """Return the hub id or folder of an `hf:` or `prompt:` model; any other name as it is."""
    return name.removeprefix(HF).removeprefix(PROMPT)


def is_pretrained(name: str) -> bool:
    """Return whether a name is that of a pretrained model: a classifier (`hf:`), or a prompted teacher (`prompt:`)."""
    return name.startswith((HF, PROMPT))


def is_path(identifier: str) -> bool:
    """Return whether the identifier after `hf:` is a local path, not a hub id."""
    path = Path(identifier)
    return path.is_absolute() or path.is_dir() or identifier.startswith((".", "~")) or len(path.parts) > HUB_PARTS


def hub_id(name: str) -> str | None:
    """Return the hub id of a pretrained model; None for a local folder and for other models.

    Examples
    --------
    >>> hub_id("hf:org/model"), hub_id("hf:/opt/model"), hub_id("ngram-bag")
    ('org/model', None, None)
    """
    identifier = identifier_of(name)
    return identifier if is_pretrained(name) and not is_path(identifier) else None


def cached_folder(name: str) -> Path | None:
    """Return the folder of the hub's cache with a complete copy of a model, or None; refuse a malformed hub id."""
    try:
        config = huggingface_hub.try_to_load_from_cache(identifier_of(name), "config.json")
    except ValueError:
        raise unusable(name, "not the form of a hub id", "give hf:<hub id or absolute folder>") from None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    whole = _has_weights(folder) and any((folder / file).is_file() for file in VOCABULARIES)
    return folder if whole else None


def read_config(name: str) -> Any:
    """Read the configuration of a pretrained model, and check its folder.

    Raises `ModelError` if there is no such model, its weights are missing, or it is an adapter, quantised, or unknown
    to transformers.
    """
    identifier = identifier_of(name)
    if is_path(identifier):
        _check_folder(name, Path(identifier))
    try:
        facts, _ = transformers.PretrainedConfig.get_config_dict(identifier)
        kind = facts.get("model_type")
    except Exception as error:
        raise not_loadable(name, error, what="config.json") from None
    if kind in EXPORTED_TYPES:
        raise unusable(name, "it is an exported head or n-gram bag, which cannot be trained further", OTHER_START)
    if kind not in transformers.CONFIG_MAPPING:
        raise unusable(name, *_unknown_type(facts))
    if facts.get("quantization_config"):
        raise unusable(name, "its weights are quantised, which cannot be trained", "use the model before quantisation")
    try:
        config = transformers.AutoConfig.from_pretrained(identifier, trust_remote_code=False)
    except Exception as error:
        raise not_loadable(name, error, what="config.json") from None
    config._attn_implementation = None  # otherwise a file could name code on the hub
    config.output_attentions = False
    config.return_dict = True
    return config


def _check_folder(name: str, folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise unusable(
            name,
            "the folder contains an adapter, which cannot be read",
            "merge it into its base model (merge_and_unload in PEFT) and save that in a folder of its own",
        )
    if not (folder / "config.json").is_file():
        found = "no config.json in that folder" if folder.is_dir() else "no such folder"
        raise unusable(name, found, "give hf:<hub id or absolute folder> of a transformers model")
    if not _has_weights(folder):
        raise unusable(
            name,
            f"no weights in that folder ({' or '.join(WEIGHTS)}), or not all of their shards",
            "copy them there, or write them with save_pretrained",
        )
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size < LARGEST_POINTER and file.read_bytes().startswith(POINTER):
            raise unusable(name, f"{file.name} is only a git-lfs pointer", "run git lfs pull in that folder")


def _has_weights(folder: Path) -> bool:
    """Return whether a folder contains weights, with all shards that an index lists."""
    if any((folder / file).is_file() for file in WEIGHTS):
        return True
    try:
        files = [file for file in (folder / f"{name}.index.json" for name in WEIGHTS) if file.is_file()]
        indices = [json.loads(file.read_text("utf-8")) for file in files]
        return any(all((folder / shard).is_file() for shard in index["weight_map"].values()) for index in indices)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _unknown_type(facts: dict[str, Any]) -> tuple[str, str]:
    kind = facts.get("model_type")
    if not kind:
        return "its config.json has no model_type", "use a model that transformers has saved"
    if facts.get("auto_map"):
        return f"its type {kind!r} needs code of its own, which is never run", "use a model that transformers knows"
    return f"transformers {transformers.__version__} knows no type {kind!r}", "use another model, or upgrade"


def load_weights(
    auto_class: Any, name: str, config: Any, *, prefix: str | None = None, quantised: dict[str, Any] | None = None
) -> tuple[Any, set[str]]:
    """Load a model in float32 by an auto class of transformers; also return the names of arrays that its files lack.

    `prefix` is that of the encoder's arrays, if it is not the model's `base_model_prefix`; `quantised` has further
    arguments of `from_pretrained` that quantise frozen layers. Raises `ModelError` if the
    weights cannot be read, or arrays of the encoder are missing.
    """
    try:
        network, told = auto_class.from_pretrained(
            identifier_of(name),
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
            weights_only=True,
            **(quantised or {}),
        )
        network = _in_float32(network) if quantised else network.float()
    except Exception as error:
        raise not_loadable(name, error, what="weights") from None
    prefix = f"{network.base_model_prefix}." if prefix is None else prefix
    arrays = set(network.state_dict())
    encoder = [key for key in arrays if key.startswith(prefix)]
    named = {*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])}
    missing = {key if key in arrays else f"{prefix}{key}" for key in named}  # some versions omit it
    lost = sorted(
        key for key in missing if key.startswith(prefix) and "pooler" not in key
    )  # poolers are seldom saved, and are trained
    if lost:
        raise unusable(
            name,
            f"{len(lost)} of the {len(encoder)} arrays of {type(network).__name__} are not in its files or have"
            f" another shape, such as {lost[0]}",
            "give the folder that save_pretrained of the same model wrote",
        )
    return network, missing


def _in_float32(network: Any) -> Any:
    """Convert all parameters that are not quantised; transformers refuses `float()` if any is."""
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.float()
    return network


def not_loadable(name: str, error: Exception, *, what: str, remedy: str = COPY) -> ModelError:
    """Return the error for a part of a pretrained model that cannot be loaded."""
    if isinstance(error, ImportError):
        return unusable(name, f"its {what} needs a package that is not installed", "see the model's page for which one")
    if isinstance(error, OSError) and not is_path(identifier_of(name)):
        return unusable(name, f"its {what} cannot be fetched from the hub", ASK_THE_HUB)
    return unusable(name, f"its {what} cannot be loaded ({type(error).__name__})", remedy)
