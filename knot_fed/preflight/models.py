"""The pretrained models of a run, tried on a few texts before it starts."""

from collections.abc import Sequence

from knot_fed.config import RunConfig
from knot_fed.mechanisms import mechanism_of
from knot_fed.models import ModelSpec, build_classifier, check_ready, needs_permission, try_model
from knot_fed.types import Text

PAIRED_TASK = "nli"


def named_models(config: RunConfig) -> set[str]:
    """Return the names of all models of a run."""
    return {config.model, config.student_model, *teacher_models(config)}


def teacher_models(config: RunConfig) -> set[str]:
    """Return the names of the models that clients train."""
    named = (name.strip() for name in config.teacher.models.split(","))
    return set(filter(None, named)) or {config.model}


def _untrained_models(config: RunConfig) -> set[str]:
    """Return the names of the models that the run uses as they are, the student's where it counts as a teacher."""
    if config.teacher.epochs:
        return set()
    return teacher_models(config) | ({config.student_model} if config.student.pretrain else set())


def check_models(config: RunConfig, texts: Sequence[Text]) -> list[str]:
    """Let each pretrained model of this machine read a few texts; one that is still to be fetched is left to the run.

    Parameters
    ----------
    config
        The run's configuration, with absolute paths.
    texts
        The first transfer texts; none: they are not on this machine.

    Returns
    -------
    notes
        What a user would not expect of the models.

    Raises
    ------
    ModelError
        If one cannot be used, or starts from random parameters where `teacher.epochs = 0` trains nothing.
    PrivacyError
        If teachers are to be trained by DP-SGD, and Opacus is missing or cannot treat one.
    """
    paired = not isinstance(texts[0], str) if texts else config.task == PAIRED_TASK
    mechanism = mechanism_of(config.privacy)
    private = teacher_models(config) if mechanism.facts.noise_on == "teacher" else set[str]()
    mechanism.check_installed()
    notes: list[str] = []
    untrained = _untrained_models(config)
    for name in sorted(untrained):
        if not needs_permission(name):
            check_ready(name, ready=False)
    for name in sorted(filter(needs_permission, named_models(config))):
        spec = ModelSpec(name, config.trainable, config.label_space().names, paired, config.teacher.max_length)
        trial = try_model(spec, tuple(texts))
        if trial is not None and name in private:
            model = build_classifier(spec, seed=0, device="cpu")
            mechanism.check_model(model, texts or [("a", "b") if paired else "a"])
        if trial is not None:
            check_ready(name, ready=trial.ready or name not in untrained)
            notes += [f"model {name!r}: {note}" for note in trial.notes]
    return notes
