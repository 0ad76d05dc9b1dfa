"""Methods of the field as cells of a sweep: each is a TOML file of settings that is laid over the study."""

from collections.abc import Mapping
from pathlib import Path

from knot_fed.config import RunConfig, Scalar, check_known_keys, known_keys
from knot_fed.config.overrides import PACKAGE, absolute, read_override
from knot_fed.errors import ConfigError, shown
from knot_fed.sweep.grid import SEED, SET_BY_SWEEP

PLACE = Path("simulations/methods")
OF_STUDY = ("task", "data.", "labels.")
"""Prefixes of keys that all methods of a table must have in common."""
SHAPING_ANSWERS = "teacher.calibrate", "teacher.temperature", "teacher.label-smoothing"
"""Settings of all teachers that no shipped method sets, and that change what a method is."""
AVERAGING = "fedavg"
"""The method that is a strategy of its own: a baseline of every sweep, and no cell."""

Methods = Mapping[str, Mapping[str, Scalar]]
"""Settings of each method by its name."""


def shipped_methods() -> list[str]:
    """Return the names of the files in `simulations/methods/`, of the installed package or of its repository."""
    folders = (PACKAGE / PLACE, PACKAGE.parent / PLACE)
    return sorted({file.stem for folder in folders for file in folder.glob("*.toml")})


def read_methods(text: str) -> dict[str, dict[str, Scalar]]:
    """Read methods separated by commas: names in `simulations/methods/`, or paths of TOML files, named by their stems.

    Raises
    ------
    ConfigError
        If a method is unknown or given twice, its file is not TOML, or it sets an unknown key, or one of the sweep or
        of the study.
    """
    methods: dict[str, dict[str, Scalar]] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part.endswith(".toml") and part not in shipped_methods():
            raise ConfigError(
                f"--methods {shown(part)}: unknown method; use {', '.join(shipped_methods())}, or a TOML file"
            )
        name = Path(part).stem
        if name in methods:
            raise ConfigError(f"--methods {shown(text)}: {name} is given twice; give each method once")
        given = read_override(part if part.endswith(".toml") else str(PLACE / f"{part}.toml"))
        methods[name] = {key: absolute(key, value) for key, value in given.items()}
        check_known_keys(methods[name], known=known_keys(RunConfig), where=f"--methods {name}")
        taken = sorted(key for key in methods[name] if key in (*SET_BY_SWEEP, SEED))
        if taken:
            raise ConfigError(f"--methods {name}: sets {', '.join(taken)}, which the sweep sets; leave it out")
        fixed = sorted(key for key in methods[name] if key.startswith(OF_STUDY))
        if fixed:
            raise ConfigError(
                f"--methods {name}: sets {', '.join(fixed)}, in which methods do not differ; set it in the study"
            )
    if set(methods) == {AVERAGING}:
        raise ConfigError(f"--methods {AVERAGING}: is a baseline, and no cell is left; name one more method")
    return methods


def settings_of_study(base: RunConfig, methods: Methods) -> list[str]:
    """Return a note for each setting of the study that shapes the answers of methods that do not set it."""
    notes, plain, given = [], RunConfig().to_mapping(), base.to_mapping()
    for key in SHAPING_ANSWERS:
        names = [name for name, values in methods.items() if name != AVERAGING and key not in values]
        if given[key] != plain[key] and names:
            notes.append(f"{key} = {shown(given[key])} of the study also holds for {', '.join(names)}")
    return notes


def lay_methods(base: RunConfig, methods: Methods) -> tuple[RunConfig, dict[str, Mapping[str, Scalar]], bool]:
    """Return the study, the methods that are cells, and whether federated averaging is asked for.

    The settings of federated averaging are laid over the study, since it is a baseline of all cells; so they may be
    those of the baseline only. Raises ConfigError if there are others.
    """
    shared = [key for key in methods.get(AVERAGING, {}) if not key.startswith(f"{AVERAGING}.")]
    if shared:
        raise ConfigError(
            f"--methods {AVERAGING}: sets {', '.join(shared)}, which would change all methods; set only keys of"
            f" [{AVERAGING}] there, and the others in the study"
        )
    study = RunConfig.from_mapping(base.to_mapping() | dict(methods.get(AVERAGING, {})))
    return study, {name: values for name, values in methods.items() if name != AVERAGING}, AVERAGING in methods
