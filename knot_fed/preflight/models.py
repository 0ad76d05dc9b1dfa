"""Trials of a run's pretrained models on a few texts."""

from collections.abc import Sequence

from knot_fed.config import RunConfig
from knot_fed.mechanisms import mechanism_of
from knot_fed.models import (
    ModelSpec,
    build_classifier,
    check_lora_extra,
    check_prompt,
    check_ready,
    is_external_model,
    run_spec,
    try_model,
)
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
    for spec, teaches in _external_specs(config, paired=paired).items():
        _check_settings(spec)
        trial = try_model(spec, tuple(texts))
        if trial is None:
            continue
        if teaches and spec.name in private:
            model = build_classifier(spec, seed=0, device="cpu")
            mechanism.check_model(model, texts or [("a", "b") if paired else "a"])
        check_ready(spec.name, ready=trial.ready or spec.name not in untrained)
        notes += [f"model {spec.name!r}: {note}" for note in trial.notes]
    return list(dict.fromkeys(notes))


def _external_specs(config: RunConfig, *, paired: bool) -> dict[ModelSpec, bool]:
    """Return the specifications of the models that are read from files or the hub, and whether a teacher has each."""
    student, teachers = config.student_model, teacher_models(config) | (named_models(config) - {config.student_model})
    roles = [*((name, True) for name in teachers), *([] if student in teachers else [(student, False)])]
    if student in teachers and config.lora.quantize != "none":
        roles.append((student, False))
    return {
        run_spec(config, name, paired=paired, teacher=teaches): teaches
        for name, teaches in sorted(roles)
        if is_external_model(name)
    }


def _check_settings(spec: ModelSpec) -> None:
    """Raise `ModelError` for missing packages and an unfit prompt, also if the model must be fetched first."""
    if spec.lora is not None:
        check_lora_extra(spec.lora)
    if spec.prompt is not None:
        check_prompt(spec.prompt, spec.labels, paired=spec.paired)
