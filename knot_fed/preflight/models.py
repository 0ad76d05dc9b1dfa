"""Trials of a run's pretrained models on a few texts."""

from collections.abc import Sequence

from knot_fed.config import RunConfig
from knot_fed.mechanisms import mechanism_of
from knot_fed.models import ModelSpec, build_classifier, check_ready, is_external_model, try_model
from knot_fed.types import Text

PAIRED_TASK = "nli"


def named_models(config: RunConfig) -> set[str]:
    """Return the names of all models of a run."""
    return {config.model, config.student_model, *teacher_models(config)}


def teacher_models(config: RunConfig) -> set[str]:
    """Return the names of the teachers' models."""
    named = (name.strip() for name in config.teacher.models.split(","))
    return set(filter(None, named)) or {config.model}


def check_models(config: RunConfig, texts: Sequence[Text]) -> list[str]:
    """Let each local pretrained model read a few texts; those that must be fetched first are not tried.

    `texts` are the first transfer texts, empty if they are not local. Returns notes on the models. Raises `ModelError`
    if a model cannot be used, or has random parameters that `teacher.epochs = 0` does not train, and `PrivacyError` if
    DP-SGD would train a teacher, and Opacus is missing or cannot.
    """
    paired = not isinstance(texts[0], str) if texts else config.task == PAIRED_TASK
    mechanism = mechanism_of(config.privacy)
    private = teacher_models(config) if mechanism.facts.noise_on == "teacher" else set[str]()
    mechanism.check_installed()
    notes: list[str] = []
    untrained = set[str]()
    if not config.teacher.epochs:
        untrained = teacher_models(config) | ({config.student_model} if config.student.pretrain else set())
    for name in sorted(untrained):
        if not is_external_model(name):
            check_ready(name, ready=False)
    for name in sorted(filter(is_external_model, named_models(config))):
        spec = ModelSpec(name, config.trainable, config.label_space().names, paired, config.teacher.max_length)
        trial = try_model(spec, tuple(texts))
        if trial is None:
            continue
        if name in private:
            model = build_classifier(spec, seed=0, device="cpu")
            mechanism.check_model(model, texts or [("a", "b") if paired else "a"])
        check_ready(name, ready=trial.ready or name not in untrained)
        notes += [f"model {name!r}: {note}" for note in trial.notes]
    return notes
