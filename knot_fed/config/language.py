"""Keys of language models: LoRA adapters, and prompted teachers."""

import re
from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from knot_fed.config.fields import CommaList, Section

ALL_LINEAR = "all-linear"
PROMPT = "prompt:"
"""Start of the name of a prompted teacher's model."""
PLACES = {False: ("{text}",), True: ("{text_a}", "{text_b}")}
"""Placeholders of a template for single texts, and for pairs."""
_LAYER = re.compile(r"[A-Za-z0-9_.]{1,200}")


class LoraConfig(Section):
    """Low-rank adapters of `trainable = "lora"`."""

    rank: int = Field(8, ge=1, le=1024, description="of the two matrices of each adapter")
    alpha: float = Field(16.0, gt=0, le=1e4, description="an adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="on an adapter's input in training")
    targets: CommaList = Field(
        "", description="names of adapted layers, such as query,value, or all-linear; empty: PEFT's choice for the type"
    )
    quantize: Literal["none", "8bit", "4bit"] = Field(
        "none", description="of the teachers' frozen weights, by bitsandbytes; the student's stay in float32"
    )

    @field_validator("targets")
    @classmethod
    def _check_targets(cls, targets: str) -> str:
        """Accept names only: PEFT would read other strings as regular expressions."""
        names = [name.strip() for name in targets.split(",")] if targets.strip() else []
        if targets != ALL_LINEAR and not all(map(_LAYER.fullmatch, names)):
            raise PydanticCustomError("targets", "use names of layers separated by commas, or all-linear")
        return targets

    @property
    def layers(self) -> list[str]:
        """The names in `targets`; empty for PEFT's choice and for all-linear."""
        given = "" if self.targets == ALL_LINEAR else self.targets
        return [name.strip() for name in given.split(",") if name.strip()]


class PromptConfig(Section):
    """The prompt of teachers `prompt:<hub id or absolute folder>`, which are never trained."""

    template: str = Field("", description='with {text}, or {text_a} and {text_b}; empty: "Text: {text}\\nLabel:"')
    words: CommaList = Field("", description="one word or phrase for each label, in order; empty: the labels' names")
    calibrate: bool = Field(True, description="divide by the answer to the text N/A (contextual calibration)")

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str) -> str:
        kinds = [all(place in template for place in places) for places in PLACES.values()]
        if template and sum(kinds) != 1:
            raise PydanticCustomError("template", "give either {text}, or both {text_a} and {text_b}")
        return template

    @property
    def label_words(self) -> list[str]:
        """The words in `words`, in the order of the labels; empty: the labels' names."""
        return [word.strip() for word in self.words.split(",")] if self.words.strip() else []
