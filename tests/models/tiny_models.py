"""Tiny random transformers in folders, as users store them; nothing is downloaded."""

import json
from functools import cache

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from knot_fed.data.reviews import builtin_texts
from knot_fed.models.storage import seeded

TEXTS = builtin_texts("forum")[:100]
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
READS = {"max_position_embeddings": 64}
BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
ROBERTA = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
ROBERTA |= {"bos_token": "<s>", "eos_token": "</s>"}
GPT = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
T5 = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
ENDED = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])


@cache
def vocabulary_of_words():
    wordpiece = tokenizers.BertWordPieceTokenizer()
    wordpiece.train_from_iterator(TEXTS, vocab_size=400, show_progress=False)
    return wordpiece._tokenizer


@cache
def vocabulary_of_bytes(special, processor=None):
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special), show_progress=False, initial_alphabet=letters
    )
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator(TEXTS, trainer)
    if processor is not None:
        made.post_processor = processor
    return made


def tokenizer_of(family, **settings):
    if family == "words":
        return fast(vocabulary_of_words(), **BERT, **settings)
    special, processor = {
        "roberta": (ROBERTA, processors.RobertaProcessing(("</s>", 2), ("<s>", 0))),
        "gpt": (GPT, None),
        "llama": (LLAMA, None),
        "t5": (T5, ENDED),
    }[family]
    return fast(vocabulary_of_bytes(tuple(dict.fromkeys(special.values())), processor), **special, **settings)


def tokenizer_of_words(*words):
    """Return a WordPiece tokenizer with only a few words."""
    known = {word: place for place, word in enumerate([*BERT.values(), *words])}
    return fast(tokenizers.BertWordPieceTokenizer(known)._tokenizer, **BERT)


def fast(vocabulary, **settings):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=vocabulary, **settings)


def write_model(folder, kind, tokenizer, **settings):
    """Write one of transformers' models with random parameters, and its tokenizer; return its name."""
    model_class = getattr(transformers, kind)
    with seeded(0):
        model_class(model_class.config_class(vocab_size=len(tokenizer), **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"hf:{folder}"


def write_bert(folder, kind="BertModel", **settings):
    return write_model(folder, kind, tokenizer_of("words"), **(SIZES | READS | settings))


def write_trained(folder, labels, kind="BertForSequenceClassification", **settings):
    """Write a classifier with its own label names."""
    names = dict(enumerate(labels))
    places = {name: place for place, name in names.items()}
    return write_bert(folder, kind, **({"num_labels": len(names), "id2label": names, "label2id": places} | settings))


def write_config(folder, **changes):
    """Change a written configuration."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


IN_GPT = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
IN_LLAMA = {**SIZES, **READS, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}
IN_ROBERTA = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
IN_T5 = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2, "d_kv": 16, "decoder_start_token_id": 0}
IN_BART = {f"{part}_{key}": value for part in ("encoder", "decoder")
           for key, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 64))}  # fmt: skip
FAMILIES = {
    "bert": ("BertModel", "words", {}, SIZES | READS),
    "distilbert": ("DistilBertModel", "words", {}, {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, **READS}),
    "roberta": (
        "RobertaModel", "roberta", {}, {**SIZES, **IN_ROBERTA, "type_vocab_size": 1, "max_position_embeddings": 66},
    ),
    "deberta": ("DebertaV2Model", "words", {}, {**SIZES, **READS, "relative_attention": True, "type_vocab_size": 0}),
    "electra for pretraining": ("ElectraForPreTraining", "words", {}, {**SIZES, **READS, "embedding_size": 16}),
    "xlnet": ("XLNetModel", "words", {}, {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 64}),
    "gpt-2 without padding": ("GPT2Model", "gpt", {}, IN_GPT),
    "gpt-2 padding on the left": (
        "GPT2Model", "gpt", {"pad_token": "<|endoftext|>", "padding_side": "left"}, {**IN_GPT, "pad_token_id": 0},
    ),
    "llama without padding": ("LlamaForCausalLM", "llama", {}, IN_LLAMA),
    "qwen without padding": ("Qwen2Model", "gpt", {}, {**IN_LLAMA, "bos_token_id": 0, "eos_token_id": 0}),
    "t5": ("T5Model", "t5", {}, IN_T5),
    "bart": (
        "BartModel", "roberta", {},
        {"d_model": 32, **READS, **IN_BART, **IN_ROBERTA, "decoder_start_token_id": 2, "forced_eos_token_id": None},
    ),
}  # fmt: skip
"""Model, tokenizer, and the settings of each."""


def write_family(folder, family):
    kind, tokenizer, reading, settings = FAMILIES[family]
    return write_model(folder, kind, tokenizer_of(tokenizer, **reading), **settings)


def write_causal(folder, family):
    """Write a decoder of the families with its language-model head; return the name of a prompted teacher."""
    kind, tokenizer, reading, settings = FAMILIES[family]
    whole = {"GPT2Model": "GPT2LMHeadModel", "Qwen2Model": "Qwen2ForCausalLM"}.get(kind, kind)
    return write_model(folder, whole, tokenizer_of(tokenizer, **reading), **settings).replace("hf:", "prompt:")
