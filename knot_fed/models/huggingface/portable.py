"""Writing of any classifier as a folder that transformers loads alone, with weights, tokenizer and code."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing

from knot_fed.errors import ModelError
from knot_fed.models.constant import ConstantClassifier
from knot_fed.models.huggingface import exported
from knot_fed.models.huggingface.head import DROPOUT, HIDDEN, HeadClassifier
from knot_fed.models.huggingface.lazily import transformers
from knot_fed.models.huggingface.lora import LoraClassifier, merged
from knot_fed.models.huggingface.text_tokens import surrounding_tokens
from knot_fed.models.huggingface.transformer import TransformerClassifier
from knot_fed.models.ngram_bag import DROPOUT as NGRAM_DROPOUT
from knot_fed.models.ngram_bag import WIDTH, NgramBag
from knot_fed.models.ngram_hashing import BUCKETS
from knot_fed.models.plugins import is_plugin_model
from knot_fed.models.text_classifier import ModelSpec, TextClassifier
from knot_fed.types import Text

AUTO_MODEL = "AutoModelForSequenceClassification"
ENDLESS = int(1e30)
"""`model_max_length` of a tokenizer without a limit, as transformers writes it."""
NGRAM_TOKENIZER = "KnotFedNgramsTokenizer"
GENERIC_TOKENIZER = "PreTrainedTokenizerFast"
"""The name that both transformers 4 and 5 know; 5 writes `TokenizersBackend`."""
UNREAD_IN_CONFIG = ("_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "torch_dtype")
PLACES = ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file")
"""Keys by which transformers may write where a model came from."""


def write_portable(model: TextClassifier, folder: Path) -> list[str]:
    """Write a classifier into an existing folder, from which transformers loads it wherever that is copied.

    Returns
    -------
    code
        The Python files in the folder that transformers runs; empty if the model's class is one of transformers.

    Raises
    ------
    ModelError
        If the classifier is the user's own code, a constant, or pairs are read by a tokenizer that cannot join them.
    """
    code = _write(model.cpu().eval(), folder)
    for file in folder.iterdir():
        file.chmod((folder / "config.json").stat().st_mode)  # weights are written for their owner only
    return code


def _write(model: TextClassifier, folder: Path) -> list[str]:
    if isinstance(model, LoraClassifier):
        model = merged(model)
    if isinstance(model, TransformerClassifier):
        return _write_transformer(model, folder)
    if isinstance(model, HeadClassifier):
        return _write_head(model, folder)
    if isinstance(model, NgramBag):
        return _write_ngrams(model, folder)
    what = "a constant" if isinstance(model, ConstantClassifier) else "a model of another kind"
    if is_plugin_model(model.spec.name):
        what = f"your own model {model.spec.name}, whose code knot_fed does not know"
    raise ModelError(f"the student is {what}, which has no form in transformers; load it with knot_fed.load_student")


def load_portable(folder: Path) -> tuple[Any, Any]:
    """Load the model and the tokenizer of an exported folder, with the code of this package instead of the folder's."""
    exported.register()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(folder), trust_remote_code=False)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def pipeline_probabilities(
    folder: Path, texts: Sequence[Text], *, batch_size: int = 8
) -> Float[np.ndarray, "examples classes"]:
    """Return what the text-classification pipeline gives for single texts or pairs, in the order of the labels."""
    model, tokenizer = load_portable(folder)
    classify = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    inputs = [text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts]
    place = {name: index for index, name in model.config.id2label.items()}
    rows = np.zeros((len(texts), len(place)), dtype=np.float64)
    for row, found in enumerate(classify(inputs, top_k=None, truncation=True, batch_size=batch_size)):
        rows[row, [place[each["label"]] for each in found]] = [each["score"] for each in found]
    return rows


def _write_transformer(model: TransformerClassifier, folder: Path) -> list[str]:
    model.save_pretrained(folder)
    if hasattr(model.network.config, "use_mems_eval"):  # no pipeline reads batches of XLNet's memories
        _edit(folder / "config.json", {"use_mems_eval": False}, drop=())
    _settle_tokenizer(folder, model.tokenizer, min(model.spec.max_length, model.tokenizer.model_max_length))
    return []


def _write_head(model: HeadClassifier, folder: Path) -> list[str]:
    encoder, tokenizer, spec = model.encoder, model.tokenizer, model.spec
    described = {key: value for key, value in encoder.config.to_dict().items() if key not in UNREAD_IN_CONFIG}
    described |= {"use_cache": False} if "use_cache" in described else {}
    start, end = surrounding_tokens(tokenizer)
    most = min(spec.max_length, tokenizer.model_max_length)
    _write_config(
        folder, spec, exported.HEAD, "KnotFedHead",
        encoder=described, encoder_part=encoder.part, feature_width=int(encoder.config.hidden_size), head_width=HIDDEN,
        head_dropout=DROPOUT, max_length=most, end_tokens=len(end), pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    _write_weights(folder, {"encoder": encoder.network, "head": model.head})
    if spec.paired:
        _save_joining(tokenizer, start, end, folder)
        names = ["input_ids", "token_type_ids", "attention_mask"]
        _settle_tokenizer(folder, tokenizer, 2 * most, names=names, tokenizer_class=GENERIC_TOKENIZER)
    else:
        tokenizer.save_pretrained(folder)
        _settle_tokenizer(folder, tokenizer, most)
    return _copy_code(folder, f"modeling_{exported.HEAD}.py")


def _write_ngrams(model: NgramBag, folder: Path) -> list[str]:
    _write_config(
        folder, model.spec, exported.NGRAMS, "KnotFedNgrams",
        vocab_size=BUCKETS + 1, width=WIDTH, dropout=NGRAM_DROPOUT, pad_token_id=BUCKETS,
        tokenizer_class=NGRAM_TOKENIZER,
    )  # fmt: skip
    table = torch.nn.Embedding(BUCKETS + 1, WIDTH)
    with torch.no_grad():
        table.weight.copy_(torch.cat([model.embedding.weight, torch.zeros(1, WIDTH)]))
    _write_weights(folder, {"embedding": table, "head": model.head})
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": NGRAM_TOKENIZER,
            "auto_map": {"AutoTokenizer": [f"tokenization_{exported.NGRAMS}.{NGRAM_TOKENIZER}", None]},
            "model_max_length": ENDLESS,
            "pad_token": "[PAD]",
        },
    )
    return _copy_code(folder, f"modeling_{exported.NGRAMS}.py", f"tokenization_{exported.NGRAMS}.py")


def _save_joining(tokenizer: Any, start: Sequence[int], end: Sequence[int], folder: Path) -> None:
    """Save a tokenizer that surrounds each text of a pair as it surrounds a single one, with 1 as the second's type."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"the tokenizer of the student's encoder ({type(tokenizer).__name__}) has no tokenizer.json, which an"
            " export of pairs needs; use an encoder that has one, or load the student with knot_fed.load_student"
        )

    def around(text: str, kind: int) -> list[str]:
        tokens = (tokenizer.convert_ids_to_tokens(list(ids)) for ids in (start, end))
        before, after = ([f"{token}:{kind}" for token in side] for side in tokens)
        return [*before, f"{text}:{kind}", *after]

    special = [(tokenizer.convert_ids_to_tokens(index), index) for index in dict.fromkeys([*start, *end])]
    single = around("$A", 0)
    rule = TemplateProcessing(single=single, pair=[*single, *around("$B", 1)], special_tokens=special)
    joining, before = tokenizer.backend_tokenizer, tokenizer.backend_tokenizer.post_processor
    joining.post_processor = rule
    try:
        tokenizer.save_pretrained(folder)
    finally:
        joining.post_processor = before


def _settle_tokenizer(folder: Path, tokenizer: Any, most: int, *, names: Sequence[str] = (), **settings: str) -> None:
    """Write into the tokenizer's file what `load_tokenizer` and `tokenize` decide on loading and calling it.

    The model's configuration names its class too: pipelines of transformers 4 load no tokenizer for a model of another
    package otherwise.
    """
    settled = {
        "model_max_length": most,
        "model_input_names": list(names or tokenizer.model_input_names),
        "padding_side": tokenizer.padding_side,
        "split_special_tokens": True,
    }
    file = folder / "tokenizer_config.json"
    kind = json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class")
    named = {"tokenizer_class": GENERIC_TOKENIZER if kind in (None, "TokenizersBackend") else kind} | settings
    _edit(file, settled | named, drop=(*PLACES, "auto_map"))
    _edit(folder / "config.json", named, drop=PLACES)


def _write_config(folder: Path, spec: ModelSpec, kind: str, prefix: str, **settings: object) -> None:
    names = {str(index): name for index, name in enumerate(spec.labels)}
    code = f"modeling_{kind}.{prefix}"
    facts = {
        "architectures": [f"{prefix}ForSequenceClassification"],
        "auto_map": {"AutoConfig": f"{code}Config", AUTO_MODEL: f"{code}ForSequenceClassification"},
        "dtype": "float32",
        "id2label": names,
        "label2id": {name: int(index) for index, name in names.items()},
        "model_type": kind,
        "paired": spec.paired,
        "transformers_version": transformers.__version__,
        **settings,
    }
    _write_json(folder / "config.json", facts)


def _write_weights(folder: Path, modules: Mapping[str, torch.nn.Module]) -> None:
    state = {
        f"{prefix}.{name}": value.detach().cpu().clone().contiguous()  # shared tensors are written twice
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _copy_code(folder: Path, *names: str) -> list[str]:
    for name in names:
        shutil.copyfile(Path(exported.__file__).with_name(name), folder / name)
    return list(names)


def _edit(file: Path, settings: Mapping[str, object], *, drop: Iterable[str]) -> None:
    facts = json.loads(file.read_text(encoding="utf-8"))
    _write_json(file, {key: value for key, value in facts.items() if key not in set(drop)} | dict(settings))


def _write_json(file: Path, facts: Mapping[str, object]) -> None:
    file.write_text(json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
