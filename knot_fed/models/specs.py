"""The specification of a model that a run's configuration names."""

from collections.abc import Sequence

from knot_fed.config import PROMPT, RunConfig
from knot_fed.models.huggingface.pretrained import HF
from knot_fed.models.text_classifier import ModelSpec


def is_prompted(name: str) -> bool:
    """Return whether a model's name is that of a prompted teacher, which is never trained."""
    return name.startswith(PROMPT)


def run_spec(
    config: RunConfig,
    name: str,
    *,
    paired: bool,
    teacher: bool,
    max_length: int = 0,
    trainable: str = "",
    vocabulary: Sequence[str] = (),
) -> ModelSpec:
    """Describe a model of a run.

    Parameters
    ----------
    paired
        Whether the run's texts are pairs.
    teacher
        Whether it is a client's teacher; only a teacher's frozen weights are quantised.
    max_length, trainable
        Of a node that has its own; 0 or empty: the run's.
    vocabulary
        Of `tiny-bert`.
    """
    trained = trainable or config.trainable
    adapted = trained == "lora" and name.startswith(HF)
    whole = (trained == "lora" and not adapted) or is_prompted(name)
    lora = config.lora if teacher else config.lora.model_copy(update={"quantize": "none"})
    return ModelSpec(
        name,
        "all" if whole else trained,
        config.label_space().names,
        paired,
        max_length or config.teacher.max_length,
        tuple(vocabulary),
        lora=lora if adapted else None,
        prompt=config.prompt if is_prompted(name) else None,
    )
