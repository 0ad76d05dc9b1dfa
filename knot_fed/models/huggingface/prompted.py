"""Prompted teachers: a causal language model that scores the labels' words after a text, without any training."""

import copy
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn
from typing_extensions import override

from knot_fed.config import PLACES, PromptConfig
from knot_fed.errors import ModelError
from knot_fed.models.huggingface.lazily import transformers
from knot_fed.models.huggingface.pretrained import load_weights, read_config, unusable
from knot_fed.models.huggingface.text_tokens import cut_notes, load_tokenizer, random_token_items, surrounding_tokens
from knot_fed.models.text_classifier import Item, ModelSpec, TextClassifier
from knot_fed.types import Text

TEMPLATES = {False: "Text: {text}\nLabel:", True: "First text: {text_a}\nSecond text: {text_b}\nLabel:"}
CONTENT_FREE = "N/A"
LEAST_ROOM = 8
"""Tokens of a text that must fit beside the template."""
TOKENS_AT_ONCE = 1 << 13
"""Tokens of the prompts, with padding, that one call of the network reads."""
UNTRAINED = "is not trained: it answers as its language model does, whatever teacher.epochs says"
NO_LANGUAGE_MODEL = "use a causal language model, such as GPT-2, Llama or Qwen"


class PromptedClassifier(TextClassifier):
    """Logits from the mean log-probability of the tokens of each label's word after the prompt.

    With `calibrate`, the logits of the text "N/A" are subtracted: each label's probability is divided by its prior, so
    that a text without content gets equal ones. This is contextual calibration (Zhao et al. 2021, arXiv 2102.09690) of
    geometric means over all tokens of a word, as in Sanz-Guerrero and von der Wense (2025, arXiv 2511.14385).
    """

    default_learning_rate = 0.0
    trains = False
    mixed_precision = True

    def __init__(self, spec: ModelSpec, network: Any, tokenizer: Any) -> None:
        super().__init__(spec)
        self.network, self.tokenizer = network.requires_grad_(False), tokenizer
        prompt = spec.prompt or PromptConfig()
        self._template = prompt.template or TEMPLATES[spec.paired]
        self._places = PLACES[spec.paired]
        self._start, _ = surrounding_tokens(tokenizer)
        self._words = self._word_tokens(prompt.label_words or [name.replace("_", " ") for name in spec.labels])
        self._room = self._tokens_for_texts()
        accepted = inspect.signature(network.forward).parameters
        self._numbered = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._cache = "cache" if "cache" in accepted else "past_key_values"  # before transformers 5.24
        self._prior: torch.Tensor | None = None
        self._calibrate = prompt.calibrate

    @override
    def encode(self, texts: Sequence[Text]) -> list[Item]:
        return [self._prompt_tokens(text) for text in texts]

    @override
    def readings(self, texts: Sequence[Text]) -> Iterable[object]:
        return self.encode(texts)

    @override
    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        lengths = torch.tensor([len(item) for item in items])
        tokens = torch.full((len(items), int(lengths.max())), int(self.tokenizer.pad_token_id))
        for row, item in enumerate(items):
            tokens[row, tokens.shape[1] - len(item) :] = torch.tensor(item)
        return {"input_ids": tokens, "lengths": lengths}

    @override
    def item_length(self, item: Item) -> int:
        return len(item)

    @override
    def random_items(self, generator: np.random.Generator, count: int) -> list[Item]:
        special = set(self.tokenizer.all_special_ids)
        drawn = random_token_items(self.tokenizer, generator, count * len(self._places))
        texts = [
            self.tokenizer.decode([token for token in item["input_ids"] if token not in special]) for item in drawn
        ]
        return self.encode(list(zip(texts[:count], texts[count:], strict=True)) if self.spec.paired else texts)

    @override
    def state_names(self) -> list[str]:
        return []

    @override
    def notes(self) -> list[str]:
        return [UNTRAINED, *cut_notes(self.tokenizer, self.spec)]

    @property
    @override
    def output_layer(self) -> nn.Linear | None:
        return None

    @override
    def forward(self, **batch: torch.Tensor) -> Float[torch.Tensor, "examples classes"]:
        scores = self._scores(batch["input_ids"], batch["lengths"])
        return scores - self._content_free(scores.device) if self._calibrate else scores

    def _content_free(self, device: torch.device) -> Float[torch.Tensor, "classes"]:
        """Return the scores of the text without content, computed once."""
        if self._prior is None:
            text: Text = (CONTENT_FREE, CONTENT_FREE) if self.spec.paired else CONTENT_FREE
            batch = self.collate(self.encode([text]))
            self._prior = self._scores(batch["input_ids"].to(device), batch["lengths"].to(device))[0]
        return self._prior

    def _scores(
        self, tokens: Int[torch.Tensor, "examples longest"], lengths: Int[torch.Tensor, "examples"]
    ) -> Float[torch.Tensor, "examples classes"]:
        """Score all words after each prompt, a few prompts at a time, since a vocabulary and a cache are large."""
        rows = max(1, TOKENS_AT_ONCE // tokens.shape[1])
        return torch.cat(
            [
                self._read_prompts(*part)
                for part in zip(torch.split(tokens, rows), torch.split(lengths, rows), strict=True)
            ]
        )

    @torch.no_grad()
    def _read_prompts(
        self, tokens: Int[torch.Tensor, "examples longest"], lengths: Int[torch.Tensor, "examples"]
    ) -> Float[torch.Tensor, "examples classes"]:
        """Read each prompt once; words of several tokens continue a copy of its cache.

        A word's score is the mean of log p(token | prompt, tokens before it).
        """
        places = torch.arange(tokens.shape[1], device=tokens.device) - (tokens.shape[1] - lengths)[:, None]
        mask = (places >= 0).long()
        read = self._read(tokens, mask, places.clamp(min=0), **self._last_only)
        first = read.logits[:, -1].float().log_softmax(dim=-1)
        columns = []
        for word in self._words:
            total = first[:, word[0]]
            if len(word) > 1:
                total = total + self._continued(copy.deepcopy(read[self._cache]), word, mask, lengths)
            columns.append(total / len(word))
        return torch.stack(columns, dim=1)

    def _continued(
        self, cache: Any, word: Sequence[int], mask: torch.Tensor, lengths: torch.Tensor
    ) -> Float[torch.Tensor, "examples"]:
        """Return the sum of the log-probabilities of a word's tokens after its first."""
        given = torch.tensor(word[:-1], device=mask.device).expand(len(mask), -1)
        places = lengths[:, None] + torch.arange(len(word) - 1, device=mask.device)
        read = self._read(given, torch.cat([mask, torch.ones_like(given)], dim=1), places, **{self._cache: cache})
        wanted = torch.tensor(word[1:], device=mask.device).expand(len(mask), -1)
        found: torch.Tensor = read.logits.float().log_softmax(dim=-1).gather(2, wanted[:, :, None])
        return found[:, :, 0].sum(dim=1)

    def _read(self, tokens: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, **settings: Any) -> Any:
        numbered = {"position_ids": places} if self._numbered else {}
        return self.network(input_ids=tokens, attention_mask=mask, use_cache=True, **numbered, **settings)

    def _prompt_tokens(self, text: Text) -> list[int]:
        """Return the tokens of a prompt; only its texts are cut where it would be too long."""
        parts = [text] if isinstance(text, str) else list(text)
        found = self._plain(self._filled(parts))
        excess = len(found) - self._room - self._of_template
        while excess > 0:
            longest = max(range(len(parts)), key=lambda side: len(self._plain(parts[side])))
            tokens = self._plain(parts[longest])
            other = max((len(self._plain(part)) for side, part in enumerate(parts) if side != longest), default=0)
            cut = min(excess, max(1, len(tokens) - other)) if other else excess
            parts[longest] = self.tokenizer.decode(tokens[: max(0, len(tokens) - cut)]).rstrip("\ufffd")
            found = self._plain(self._filled(parts))
            excess = len(found) - self._room - self._of_template
            if not any(parts):
                break
        return self._start + found

    def _filled(self, parts: Sequence[str]) -> str:
        """Return the template with the texts; what a text has in braces is not replaced again."""
        pieces, rest = [], self._template
        for place, part in sorted(zip(self._places, parts, strict=True), key=lambda each: rest.index(each[0])):
            before, _, rest = rest.partition(place)
            pieces += [before, part]
        return "".join([*pieces, rest])

    def _plain(self, text: str) -> list[int]:
        """Return a text's tokens; special tokens in it are plain text."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return tokens

    def _word_tokens(self, words: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each label's word as they follow the template's end."""
        end = self._template[max(self._template.rindex(place) + len(place) for place in self._places) :]
        before = self._plain(f".{end}")
        found = []
        for word in words:
            spaced = word if end.endswith((" ", "\n", "\t")) else f" {word}"
            after = self._plain(f".{end}{spaced}")
            own = after[len(before) :] if after[: len(before)] == before else self._plain(spaced)
            if not own:
                raise ModelError(f"prompt.words: the tokenizer of {self.spec.name!r} reads nothing in {word!r}")
            found.append(own)
        for place, own in enumerate(found):
            if own in found[:place]:
                pair = f"{words[found.index(own)]!r} and {words[place]!r}"
                raise ModelError(
                    f"prompt.words: {pair} are the same tokens for {self.spec.name!r}; give words that differ"
                )
        return found

    def _tokens_for_texts(self) -> int:
        """Return how many tokens of texts fit, at most `max_length`."""
        self._of_template = len(self._plain(self._filled([""] * len(self._places))))
        beside = len(self._start) + self._of_template + max(map(len, self._words))
        room = min(self.spec.max_length, int(self.tokenizer.model_max_length) - beside)
        if room < LEAST_ROOM:
            raise ModelError(
                f"prompt.template: it leaves {max(room, 0)} of the {self.tokenizer.model_max_length} tokens that"
                f" {self.spec.name!r} reads for a text; use a shorter template"
            )
        return room


def check_prompt(prompt: PromptConfig, labels: Sequence[str], *, paired: bool) -> None:
    """Raise `ModelError` if the template does not fit the run's texts, or the words its labels."""
    if prompt.template and not all(place in prompt.template for place in PLACES[paired]):
        kind = "pairs" if paired else "single texts"
        raise ModelError(f"prompt.template: the run has {kind}; use {' and '.join(PLACES[paired])} in it")
    if prompt.words and len(prompt.label_words) != len(labels):
        raise ModelError(
            f"prompt.words: {len(prompt.label_words)} words for {len(labels)} labels; give one for each, in their order"
        )


def build_prompted(spec: ModelSpec) -> PromptedClassifier:
    """Load a causal language model as a classifier that is never trained.

    Raises `ModelError` if it cannot be loaded or used, or the prompt does not fit the run.
    """
    check_prompt(spec.prompt or PromptConfig(), spec.labels, paired=spec.paired)
    config = read_config(spec.name)
    tokenizer = load_tokenizer(spec.name, config)
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise unusable(
            spec.name, f"{config.model_type!r} has no language model that continues a text", NO_LANGUAGE_MODEL
        )
    network, missing = load_weights(transformers.AutoModelForCausalLM, spec.name, config)
    if missing:
        raise unusable(spec.name, "its files have no language-model head", NO_LANGUAGE_MODEL)
    _check_causal(spec.name, network.eval(), tokenizer)
    return PromptedClassifier(spec, network, tokenizer)


@torch.no_grad()
def _check_causal(name: str, network: Any, tokenizer: Any) -> None:
    """Refuse a model that sees what follows: encoders such as BERT load as language models, too."""
    ordinary = [token for token in range(len(tokenizer)) if token not in tokenizer.all_special_ids][:3]
    first, second = (network(input_ids=torch.tensor([[ordinary[0], token]])).logits[0, 0] for token in ordinary[1:])
    if not torch.allclose(first, second, atol=1e-4):
        raise unusable(name, "its answer for a word depends on the next one", NO_LANGUAGE_MODEL)
