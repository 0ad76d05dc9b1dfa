"""The cells of a sweep: every combination of the grid's values, without duplicates."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from knot_fed.config import RunConfig, Scalar, check_known_keys, known_keys
from knot_fed.config.choices import WEIGHTED
from knot_fed.config.overrides import VALUE, absolute, parse_value, read_pairs
from knot_fed.errors import ConfigError, shown
from knot_fed.losses import TRANSPORT_KEYS
from knot_fed.runs.sweep_tables import METHOD

SEED = "seed"
SET_BY_SWEEP = ("name", "resume", "runs-dir", "state-dir", "threads")
"""Keys that a sweep sets itself, or that must be the same for all runs."""
MOST_SEEDS = 1000
"""A typing error is reported before its cells fill the memory."""
SHAPING = ("task", "model", "trainable", "lora.", "prompt.", "labels.", "data.", "teacher.", "student.", "privacy.")
"""Prefixes of keys that change the data, the teachers or the student's start, and so the baselines."""
OF_ROUNDS = ("teacher.start", "teacher.round-epochs", "student.restart")
"""Keys under these prefixes that no baseline reads."""
START = ("model", "trainable", "lora.", "student.")
START_TRAINED = (*START, "teacher.")
"""Prefixes of keys that determine a student's start, new or pretrained."""
OF_POOLING = {"weights.power": WEIGHTED, "weights.trim": ("trimmed-mean",), "weights.era-temperature": ("era",)}
"""Keys that change pooled soft labels beside the scheme and the pooling, and the poolings that read them."""
NO_START = (*OF_ROUNDS, "teacher.models", "teacher.calibrate", "teacher.temperature")
"""Keys under these prefixes that do not."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep."""

    name: str  # of the run folder; unique in the sweep
    seed: int
    values: dict[str, Scalar]  # what the grid sets, by configuration key, after the name of the method if there is one
    config: RunConfig  # the whole configuration
    study: RunConfig  # the same without its method: the configuration of the baselines

    @property
    def shaping(self) -> dict[str, Scalar]:
        """Values of the grid that change the data, the teachers or the student's start."""
        return _shaping(self.values)

    @property
    def weighing(self) -> dict[str, Scalar]:
        """Values of the grid that tell the study's weighting from others of the same scheme and pooling."""
        if METHOD in self.values:
            return {}  # all methods share the study's
        pooling = self.study.weights.pooling
        return {key: value for key, value in self.values.items() if pooling in OF_POOLING.get(key, ())}

    @property
    def reference(self) -> str:
        """Name of the baselines that all cells with this seed and these shaping values share, whatever their method."""
        return _cell_name(self.seed, self.shaping)


def parse_grid(text: str, base: RunConfig) -> dict[str, list[Scalar]]:
    """Parse `key=value,value key=value`, each value as in `--run-config`, and make relative paths absolute.

    Raises ConfigError if a key is unknown, repeated or set by the sweep, or its values are missing or repeated.
    """
    kinds = base.to_mapping()
    grid: dict[str, list[Scalar]] = {}
    for key, listed in read_pairs(text, option="--grid"):
        check_known_keys({key: 0}, known=known_keys(RunConfig), where="--grid")
        if key in SET_BY_SWEEP:
            raise ConfigError(f"--grid {key}: is the same for all runs of a sweep; leave it out of the grid")
        values = [
            absolute(key, parse_value(value, kinds[key], where=f"--grid {key}")) for value in VALUE.findall(listed)
        ]
        if not values or len(set(values)) != len(values) or key in grid or key == SEED:
            raise ConfigError(
                f"--grid {shown(f'{key}={listed}')}: expected key=value,value with distinct values, each key once;"
                " seeds are given by --seeds"
            )
        grid[key] = values
    return grid


def parse_seeds(text: str) -> list[int]:
    """Parse the number of seeds, which are then 1, 2, ..., or a comma-separated list; raises ConfigError.

    Examples
    --------
    >>> parse_seeds("3"), parse_seeds("4,7")
    ([1, 2, 3], [4, 7])
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and len(part) < 20 for part in parts):
        raise ConfigError(f"--seeds {shown(text)}: expected a number of seeds, or seeds with commas such as 3,7")
    numbers = [int(part) for part in parts]
    if len(set(numbers)) != len(numbers):
        twice = next(seed for seed in numbers if numbers.count(seed) > 1)
        raise ConfigError(f"--seeds {text!r}: seed {twice} is given twice; give each seed once")
    if (len(numbers) if "," in text else numbers[0]) > MOST_SEEDS:
        raise ConfigError(f"--seeds {shown(text)}: too many; use {MOST_SEEDS} seeds at most")
    if "," not in text:
        numbers = list(range(1, numbers[0] + 1))
    if not numbers:
        raise ConfigError("--seeds 0: no seed; give 1 or more")
    return numbers


def make_cells(
    base: RunConfig,
    grid: Mapping[str, list[Scalar]],
    seeds: list[int],
    methods: Mapping[str, Mapping[str, Scalar]] | None = None,
) -> list[Cell]:
    """Combine methods, grid and seeds, seed by seed, without varying keys that a cell does not read.

    The settings of a method are laid over the study, and the grid's values over both.

    The loss determines which keys of `transport` are read; only some poolings read a weighting. Raises
    ConfigError if a combination is not a valid configuration, or two give run folders of the same name.
    """
    cells: dict[str, Cell] = {}
    study: dict[str, Scalar] = {**base.to_mapping()}
    laid: dict[str, dict[str, Scalar]] = {name: {**study, **preset} for name, preset in (methods or {}).items()}
    combinations = itertools.product(seeds, laid or [""], itertools.product(*grid.values()))
    for seed, method, combination in combinations:
        over = laid.get(method, study)
        set_here = _without_unread(dict(zip(grid, combination, strict=True)), over)
        values = {METHOD: method, **set_here} if method else set_here
        name = _cell_name(seed, values)
        if name not in cells:
            own: dict[str, Scalar] = {SEED: seed, "name": name}
            config = RunConfig.from_mapping(over | set_here | own)
            of_study = RunConfig.from_mapping(study | _shaping(set_here) | own) if method else config
            cells[name] = Cell(name, seed, values, config, of_study)
        elif cells[name].values != values:
            raise ConfigError(f"--grid: two combinations would share the run folder {name}; rename one of the values")
    _check_baselines(list(cells.values()))
    return list(cells.values())


def _shaping(values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {key: value for key, value in values.items() if key.startswith(SHAPING) and key not in OF_ROUNDS}


def _check_baselines(cells: Sequence[Cell]) -> None:
    """Refuse to compare cells that measure SD and W1 in different geometries, or whose students start differently."""
    found = dict[str, tuple[str, str]]()
    for cell in cells:
        start, of_study = _start(cell.config), _start(cell.study)
        other = ", ".join(sorted(key for key in start if start[key] != of_study[key]))
        if other:
            raise ConfigError(
                f"--methods {cell.values[METHOD]}: sets {other}, which changes the student's start too, and all methods"
                " of a table start from the study's; set it in the study"
            )
        geometry = cell.config.geometry
        measured = geometry, cell.config.transport.encoder if geometry == "embedding" else ""
        if found.setdefault(cell.reference, measured) != measured:
            raise ConfigError(
                f"--grid: SD would be measured in the geometry {found[cell.reference][0]} in some cells and {geometry}"
                " in others; set labels.geometry, such as labels.geometry = 'embedding'"
            )


def _start(config: RunConfig) -> dict[str, Scalar]:
    """Return what determines the student's start beside the data."""
    trained = START_TRAINED if config.student.pretrain else START
    return {key: value for key, value in config.to_mapping().items() if key.startswith(trained) and key not in NO_START}


def _without_unread(values: dict[str, Scalar], over: Mapping[str, Scalar]) -> dict[str, Scalar]:
    given = {**over, **values}
    losses = [given["distill.loss"], *([given["personal.loss"]] if given["personal.consensus"] != "none" else [])]
    read = frozenset[str]().union(*(TRANSPORT_KEYS.get(str(loss), frozenset()) for loss in losses))
    unread = {key for key in values if key.startswith("transport.") and key not in read}
    unread |= set() if given["weights.pooling"] in WEIGHTED else {"weights.scheme", "weights.power"}
    return {key: value for key, value in values.items() if key not in unread}


def _cell_name(seed: int, values: Mapping[str, Scalar]) -> str:
    return "-".join([f"seed{seed}", *(re.sub(r"[^\w.]", "_", str(value))[-40:] for value in values.values())])
