"""Pretrained models as others save them: what is missing is set where it can be, or refused in one sentence."""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers

from knot_fed.errors import ModelError

HF = "hf:"
HUB_PARTS = 2
"""Of a hub id, at most: its owner's name and its own."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
MOST_MISSING = 0.1
"""Share of an encoder's arrays that its files may lack: a pooler or a few embeddings are often left out."""
ORDINARY_WORDS = (
    "the house is good", "la casa es buena", "das Haus ist gut", "дом хороший", "το σπίτι", "البيت جميل", "הבית טוב",
    "घर अच्छा है", "বাড়ি ভালো", "வீடு", "บ้านดี", "这个房子很好", "家は良い", "집이 좋다",
)  # fmt: skip

transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def unusable(name: str, what: str, remedy: str) -> ModelError:
    """Describe a pretrained model that cannot be used; a peer is told its last name only."""
    identifier = name.removeprefix(HF)
    told = f"{HF}{Path(identifier).name}" if is_path(identifier) else name
    return ModelError(
        f"model {name!r}: {what}; {remedy}",
        refusal=f"model {told!r} cannot be used here; the owner finds why in the client's own log",
    )


def is_path(identifier: str) -> bool:
    """Tell whether what follows `hf:` is a path on this machine, and not a hub id."""
    path = Path(identifier)
    return path.is_absolute() or path.is_dir() or identifier.startswith((".", "~")) or len(path.parts) > HUB_PARTS


def at_hand(name: str) -> Path | None:
    """Return the folder that a pretrained model is read from without a network: its own, or one in the hub's cache."""
    identifier = name.removeprefix(HF)
    if is_path(identifier):
        return Path(identifier)
    try:
        config = huggingface_hub.try_to_load_from_cache(identifier, "config.json")
    except ValueError:
        raise unusable(name, "not the form of a hub id", "give hf:<hub id or absolute folder>") from None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    whole = _has_weights(folder) and any((folder / file).is_file() for file in VOCABULARIES)
    return folder if whole else None


def read_config(name: str) -> Any:
    """Read the configuration of a pretrained model, and refuse what can be told from it and the names of its files.

    Raises
    ------
    ModelError
        If there is no such model, its weights are missing, or it is an adapter, quantised, not known to transformers,
        or no reader of text.
    """
    identifier = name.removeprefix(HF)
    if is_path(identifier):
        _check_folder(name, Path(identifier))
    try:
        facts, _ = transformers.PretrainedConfig.get_config_dict(identifier)
    except Exception as error:
        raise not_loadable(name, error) from None
    if facts.get("model_type") not in transformers.CONFIG_MAPPING:
        raise unusable(name, *_unknown_type(facts))
    if facts.get("quantization_config"):
        raise unusable(name, "its weights are quantised, which cannot be trained", "use the model before quantisation")
    try:
        return transformers.AutoConfig.from_pretrained(identifier, trust_remote_code=False)
    except Exception as error:
        raise not_loadable(name, error) from None


def _check_folder(name: str, folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise unusable(
            name,
            "the folder holds an adapter, which is not read",
            "merge it into its base model (merge_and_unload in PEFT) and save that in a folder of its own",
        )
    if not (folder / "config.json").is_file():
        found = "no config.json in that folder" if folder.is_dir() else "no such folder"
        raise unusable(name, found, "give hf:<hub id or absolute folder> of a transformers model")
    if not _has_weights(folder):
        raise unusable(
            name,
            f"no {' or '.join(WEIGHTS)} in that folder, or not all of its shards",
            "copy the weights there, or write them with save_pretrained",
        )


def _has_weights(folder: Path) -> bool:
    """Tell whether weights are there, with all shards that an index names."""
    if any((folder / file).is_file() for file in WEIGHTS):
        return True
    try:
        indices = [json.loads((folder / f"{file}.index.json").read_text("utf-8")) for file in WEIGHTS
                   if (folder / f"{file}.index.json").is_file()]  # fmt: skip
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


def load_weights(auto_class: Any, name: str, *, prefix: str | None = None, **settings: Any) -> tuple[Any, set[str]]:
    """Load a model in single precision, and tell which of its arrays its files do not hold.

    Parameters
    ----------
    auto_class
        Of transformers.
    name
        Of the model, with `hf:`.
    prefix
        What names of the encoder's arrays begin with; None: as the model says.
    settings
        For its configuration.

    Raises
    ------
    ModelError
        If its weights cannot be read, or are not those of its encoder.
    """
    try:
        network, told = auto_class.from_pretrained(
            name.removeprefix(HF), trust_remote_code=False, output_loading_info=True, **settings
        )
        network = network.float()
    except Exception as error:
        raise not_loadable(name, error) from None
    missing = {*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])}
    prefix = f"{network.base_model_prefix}." if prefix is None else prefix
    encoder = [key for key in network.state_dict() if key.startswith(prefix)]
    lost = [key for key in missing if key.startswith(prefix) and "pooler" not in key]
    if len(lost) > MOST_MISSING * len(encoder):
        raise unusable(
            name,
            f"its weight files lack {len(lost)} of the {len(encoder)} arrays of {type(network).__name__}",
            "give the folder that save_pretrained of the same model wrote",
        )
    return network, missing


def load_tokenizer(name: str, config: Any) -> Any:
    """Load a tokenizer, with a padding token, padding on the side that the model bears, and no more than it can read.

    Raises
    ------
    ModelError
        If there is none, it knows no ordinary word, or it does not belong to the model.
    """
    body = _body(name, config)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name.removeprefix(HF), trust_remote_code=False)
    except Exception as error:
        raise not_loadable(name, error, what="tokenizer") from None
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens) or all_unknown(tokenizer, ORDINARY_WORDS):
        raise unusable(
            name,
            "no tokenizer files, or a tokenizer that knows no ordinary word",
            "add those of the model, as tokenizer.save_pretrained writes them",
        )
    _check_rows(name, tokenizer, body)
    _set_padding(name, tokenizer, config)
    tokenizer.model_max_length = min([tokenizer.model_max_length, *_positions(config, body)])
    accepted = set(inspect.signature(body.forward).parameters)
    if (getattr(config, "type_vocab_size", None) or 2) < 2:
        accepted.discard("token_type_ids")
    tokenizer.model_input_names = [key for key in tokenizer.model_input_names if key in accepted]
    return tokenizer


def all_unknown(tokenizer: Any, texts: Iterable[str]) -> bool:
    """Tell whether a tokenizer knows no part of any text."""
    unknown = {tokenizer.unk_token_id, *tokenizer.all_special_ids} if tokenizer.unk_token_id is not None else set()
    read = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    return all(set(ids) <= unknown for ids in read)


def not_loadable(name: str, error: Exception, *, what: str = "model") -> ModelError:
    """Describe a pretrained model that cannot be loaded."""
    if isinstance(error, ImportError):
        return unusable(name, f"its {what} needs a package that is not installed", "see its page for which one")
    return unusable(
        name, f"its {what} cannot be loaded ({type(error).__name__})", "give hf:<hub id or absolute folder>, complete"
    )


def _body(name: str, config: Any) -> Any:
    """Build the model without numbers, to see what it reads."""
    try:
        with torch.device("meta"):
            body = transformers.AutoModel.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=False
            )
    except Exception as error:
        raise unusable(
            name, f"no model comes of its config.json ({type(error).__name__})", "use another model"
        ) from None
    if body.main_input_name != "input_ids":
        raise unusable(name, f"it reads {body.main_input_name}, not text", "use a model of text")
    return body


def _check_rows(name: str, tokenizer: Any, body: Any) -> None:
    try:
        rows = body.get_input_embeddings().num_embeddings
    except (AttributeError, NotImplementedError):
        return  # no table of tokens, such as CANINE's hashes
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise unusable(
            name,
            f"its tokenizer has tokens up to {largest}, and the model embeddings for {rows}",
            "use the model's own tokenizer, or call resize_token_embeddings and save both",
        )


def _set_padding(name: str, tokenizer: Any, config: Any) -> None:
    """Pad by what ends a text where there is no token for it: it is masked.

    Padding stands on the right, so that learned positions count from the first token; XLNet alone reads the last place.
    """
    if tokenizer.pad_token is None:
        own = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
        tokenizer.pad_token = next((token for token in own if token is not None), None)
    if tokenizer.pad_token is None:
        raise unusable(name, "its tokenizer has no padding token", "set pad_token and save the tokenizer")
    tokenizer.padding_side = "left" if getattr(config, "summary_type", None) == "last" else "right"


def _positions(config: Any, body: Any) -> list[int]:
    """Return how many tokens the model has positions for: by its configuration, less those before the first."""
    said = [getattr(config, key, None) for key in ("max_position_embeddings", "n_positions")]
    limits = [limit for limit in said if isinstance(limit, int) and limit > 0]
    for module_name, module in body.named_modules():
        first = getattr(module, "padding_idx", None)
        if module_name.endswith("position_embeddings") and first is not None:
            limits.append(len(module.weight) - first - 1)
    return limits
