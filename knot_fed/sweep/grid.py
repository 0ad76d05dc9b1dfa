"""The cells of a sweep: every combination of the grid's values, those that would give the same run only once."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from knot_fed.config import RunConfig, Scalar, check_known_keys, known_keys
from knot_fed.config.overrides import VALUE, absolute, parse_value, read_pairs
from knot_fed.errors import ConfigError, shown
from knot_fed.losses import TRANSPORT_KEYS

SEED = "seed"
SET_BY_SWEEP = ("name", "resume", "runs-dir", "state-dir", "threads")
"""Keys that a sweep sets itself, or has to be the same for all of its runs."""
MOST_SEEDS = 1000
"""Of one sweep, so that a slip of the hand is told before its cells fill the memory."""
SHAPING = ("task", "model", "trainable", "labels.", "data.", "teacher.", "student.", "privacy.")
"""Beginnings of the keys that change the data, the teachers or the student's start, and so the reference lines."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep.

    Parameters
    ----------
    name
        Names the run folder; unique in the sweep.
    seed
        The run's seed.
    values
        What the grid sets, by configuration key.
    config
        The whole configuration.
    """

    name: str
    seed: int
    values: dict[str, Scalar]
    config: RunConfig

    @property
    def shaping(self) -> dict[str, Scalar]:
        """What the grid sets of data, teachers and the student's start."""
        return {key: value for key, value in self.values.items() if key.startswith(SHAPING)}

    @property
    def reference(self) -> str:
        """Name of the reference lines that this cell shares with all others of its seed and shaping values."""
        return _cell_name(self.seed, self.shaping)


def parse_grid(text: str, base: RunConfig) -> dict[str, list[Scalar]]:
    """Read `key=value,value key=value`, each value as in `--run-config`, relative paths made absolute.

    Raises
    ------
    ConfigError
        If a key is unknown, repeats, has no or repeated values, or is one that a sweep sets itself.

    Examples
    --------
    >>> parse_grid("rounds=1,2", base)  # doctest: +SKIP
    {'rounds': [1, 2]}
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
    """Read the number of seeds, which then are 1, 2, ..., or a list of seeds with commas.

    Raises
    ------
    ConfigError
        If a seed is no natural number, or is given twice, or there are more than `MOST_SEEDS`.

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


def make_cells(base: RunConfig, grid: Mapping[str, list[Scalar]], seeds: list[int]) -> list[Cell]:
    """Combine grid and seeds, seed by seed; nothing is varied where it is not read.

    The loss says which keys of `transport` are, and only the pooling `mean` reads a weighting.

    Raises
    ------
    ConfigError
        If a combination is not a valid configuration, or two give run folders of the same name.
    """
    cells: dict[str, Cell] = {}
    for seed, combination in itertools.product(seeds, itertools.product(*grid.values())):
        values = _relevant(dict(zip(grid, combination, strict=True)), base)
        name = _cell_name(seed, values)
        if name not in cells:
            mapping = base.to_mapping() | values | {SEED: seed, "name": name}
            cells[name] = Cell(name, seed, values, RunConfig.from_mapping(mapping))
        elif cells[name].values != values:
            raise ConfigError(f"--grid: two combinations would share the run folder {name}; rename one of the values")
    return list(cells.values())


def _relevant(values: dict[str, Scalar], base: RunConfig) -> dict[str, Scalar]:
    read = TRANSPORT_KEYS.get(str(values.get("distill.loss", base.distill.loss)), frozenset())
    pooling = values.get("weights.pooling", base.weights.pooling)
    unread = {key for key in values if key.startswith("transport.") and key not in read}
    unread |= set() if pooling == "mean" else {"weights.scheme", "weights.power"}
    return {key: value for key, value in values.items() if key not in unread}


def _cell_name(seed: int, values: Mapping[str, Scalar]) -> str:
    return "-".join([f"seed{seed}", *(_slug(value) for value in values.values())])


def _slug(value: Scalar) -> str:
    return "".join(sign if sign.isalnum() or sign in "._" else "_" for sign in str(value))[-40:]
