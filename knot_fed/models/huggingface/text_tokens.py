"""Tokenizers of pretrained models, adjusted to the model or refused, and tokenization."""

import inspect
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import takewhile
from typing import Any

import numpy as np
import torch

from knot_fed.models.huggingface.lazily import transformers
from knot_fed.models.huggingface.pretrained import identifier_of, not_loadable, unusable
from knot_fed.models.text_classifier import Item, ModelSpec
from knot_fed.types import Text

RANDOM_TOKENS = (4, 24)
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_encoder_position_embeddings")
"""Configuration keys of the number of tokens that a model can read."""
ADD_FILES = (
    "add the files that tokenizer.save_pretrained writes for this model, by transformers"
    f" {version('transformers')} or older"
)
ORDINARY_WORDS = (
    "the house is good", "la casa es buena", "das Haus ist gut", "дом хороший", "το σπίτι", "البيت جميل", "הבית טוב",
    "घर अच्छा है", "বাড়ি ভালো", "வீடு", "บ้านดี", "这个房子很好", "家は良い", "집이 좋다",
)  # fmt: skip


def load_tokenizer(name: str, config: Any) -> Any:
    """Load a tokenizer, and set its padding, maximum length and inputs to those of the model.

    Raises `ModelError` if there is none, it knows no ordinary word, or it does not belong to the model.
    """
    body = _body(name, config)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(identifier_of(name), trust_remote_code=False)
        unknown = all_unknown(tokenizer, ORDINARY_WORDS)
    except Exception as error:
        raise not_loadable(name, error, what="tokenizer", remedy=ADD_FILES) from None
    if unknown:  # transformers creates an empty one if its files are missing
        raise unusable(name, "its tokenizer knows no ordinary word, or its files are missing", ADD_FILES)
    _check_rows(name, tokenizer, body)
    _set_padding(name, tokenizer, config)
    tokenizer.model_max_length = min([tokenizer.model_max_length, *_positions(config, body)])
    tokenizer.model_input_names = _inputs(name, tokenizer, config, body)
    return tokenizer


def all_unknown(tokenizer: Any, texts: Iterable[str]) -> bool:
    """Return whether a tokenizer knows no letter or digit of any text."""
    read = {token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]}
    known = tokenizer.convert_ids_to_tokens(sorted(read - set(tokenizer.all_special_ids)))
    return not any(letter.isalnum() for token in known for letter in token)


def tokenize(tokenizer: Any, texts: Sequence[Text], *, max_length: int) -> list[Item]:
    """Turn single texts or pairs into token ids, truncated at `max_length` tokens."""
    if not texts:
        return []
    single = isinstance(texts[0], str)
    columns = [list(texts)] if single else [list(column) for column in zip(*texts, strict=True)]
    encoded = tokenizer(
        *columns,
        truncation=True,
        max_length=min(max_length, tokenizer.model_max_length),
        split_special_tokens=True,  # a special token in a text is plain text
    )
    rows = [{key: values[row] for key, values in encoded.items()} for row in range(len(texts))]
    one_token = {"input_ids": tokenizer.pad_token_id, "attention_mask": 1}  # no model reads an empty sequence
    return [item if item["input_ids"] else {key: [one_token.get(key, 0)] for key in item} for item in rows]


def random_token_items(tokenizer: Any, generator: np.random.Generator, count: int) -> list[Item]:
    """Draw sequences of random ordinary tokens between the special tokens that surround every text."""
    special = set(tokenizer.all_special_ids)
    ordinary = np.array([index for index in range(len(tokenizer)) if index not in special])
    start, end = surrounding_tokens(tokenizer)
    drawn = [generator.choice(ordinary, size=size).tolist() for size in generator.integers(*RANDOM_TOKENS, size=count)]
    return [
        {"input_ids": start + ids + end, "attention_mask": [1] * (len(start) + len(ids) + len(end))} for ids in drawn
    ]


def surrounding_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and after every text."""
    around = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    ids = tokenizer("a")["input_ids"]
    start = list(takewhile(around.__contains__, ids))
    end = list(takewhile(around.__contains__, reversed(ids[len(start) :])))[::-1]
    return start, end


def cut_notes(tokenizer: Any, spec: ModelSpec) -> list[str]:
    """Return a note if a model reads fewer tokens than the specification asks for."""
    most = tokenizer.model_max_length
    return [f"reads {most} tokens of an example, fewer than max-length"] if most < spec.max_length else []


def _body(name: str, config: Any) -> Any:
    """Build the model on the meta device, to inspect its inputs."""
    try:
        with torch.device("meta"):
            body = transformers.AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:
        what = f"its config.json gives no model ({type(error).__name__})"
        raise unusable(name, what, "use another model") from None
    if body.main_input_name != "input_ids":
        raise unusable(name, f"it reads {body.main_input_name}, not text", "use a model of text")
    return body


def _inputs(name: str, tokenizer: Any, config: Any, body: Any) -> list[str]:
    """Return the inputs that the tokenizer gives and the model accepts; they include the mask."""
    accepted = set(inspect.signature(body.forward).parameters)
    if "attention_mask" not in accepted:
        raise unusable(name, "it has no attention mask, so it would read the padding of a batch", "use another model")
    if (getattr(config, "type_vocab_size", None) or 2) < 2:
        accepted.discard("token_type_ids")
    given = dict.fromkeys([*tokenizer.model_input_names, "attention_mask"])  # some are saved without it
    return [key for key in given if key in accepted]


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
    """Use another special token if there is none for padding, which is masked anyway.

    Padding is on the right, so that learned positions count from the first token; only XLNet reads the last one.
    """
    if tokenizer.pad_token is None:
        own = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
        tokenizer.pad_token = next((token for token in own if token is not None), None)
    if tokenizer.pad_token is None:
        raise unusable(name, "its tokenizer has no padding token", "set pad_token and save the tokenizer")
    tokenizer.padding_side = "left" if getattr(config, "summary_type", None) == "last" else "right"


def _positions(config: Any, body: Any) -> list[int]:
    """Return the limits on the number of tokens: of the configuration, and of the table of learned positions."""
    configured = [getattr(config, key, None) for key in POSITIONS]
    limits = [limit for limit in configured if isinstance(limit, int) and limit > 0]
    for module_name, module in body.named_modules():
        first = getattr(module, "padding_idx", None)
        if module_name.endswith("position_embeddings") and first is not None:
            limits.append(len(module.weight) - first - 1)
    return limits
