"""Recipes that turn hub data sets into the files of the KNOT paper's experiments.

Roles and preprocessing follow the paper's public code (declare-lab/KNOT), which has none for inference: those roles are
this project's. Data sets whose loading scripts no longer run are read from their files on the hub.
"""

import gzip
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from knot_fed.data.prepare.conversion import (
    GENRES,
    SEED,
    Convert,
    Converted,
    Row,
    Splits,
    convert_dialogues,
    convert_genres,
    convert_pairs,
    convert_reviews,
)
from knot_fed.errors import ConfigError, DataError

SHUFFLE_BUFFER = 100_000
SUFFIX = ".jsonl.gz"


@dataclass(frozen=True, slots=True)
class Source:
    """A data set of the hub, and the files that `convert` makes from it.

    `path` is its name, or the kind of the files in `data_files`, which has the address of each split if the data set
    does not load by its name. `columns` maps the columns that `convert` reads to the data set's. With `streaming`, only
    the needed rows are read, through a shuffle buffer.
    """

    path: str
    columns: Mapping[str, str]
    convert: Convert
    names: tuple[str, ...]
    data_files: Mapping[str, str] = field(default_factory=dict)
    streaming: bool = False

    @property
    def address(self) -> str:
        """The data set's name in messages."""
        return next(iter(self.data_files.values()), self.path)


Load: TypeAlias = Callable[[Source], Splits]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The data sets of one experiment, its simulation file, and the default row limit per file (0: none)."""

    simulation: str
    sources: tuple[Source, ...]
    limit: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files, without suffix."""
        return tuple(name for source in self.sources for name in source.names)

    @property
    def clients(self) -> int:
        """Number of private files: all but the public set and the transfer set."""
        return len(self.names) - 2


def _amazon(name: str, category: str) -> Source:
    files = f"hf://datasets/McAuley-Lab/Amazon-Reviews-2023/raw/review_categories/{category}.jsonl"
    columns = {"text": "text", "rating": "rating"}
    return Source("json", columns, convert_reviews, (name,), {"train": files}, streaming=True)


def _silicone(configuration: str, *names: str) -> Source:
    folder = f"hf://datasets/eusip/silicone@refs/convert/parquet/{configuration}"
    files = {split: f"{folder}/{split}/*.parquet" for split in ("train", "validation", "test")}
    columns = {"dialogue": "Dialogue_ID", "utterance": "Utterance", "emotion": "Emotion"}
    return Source("parquet", columns, convert_dialogues, names, files)


FINE_FOODS = "hf://datasets/jhan21/amazon-food-reviews-dataset/Reviews.csv"
PAIR = {column: column for column in ("premise", "hypothesis", "label")}
RECIPES = {
    "amazon": Recipe(
        "hub-sentiment",
        (
            _amazon("cell_phones", "Cell_Phones_and_Accessories"),
            _amazon("clothing", "Clothing_Shoes_and_Jewelry"),
            _amazon("toys", "Toys_and_Games"),
            Source(
                "csv",
                {"text": "Text", "rating": "Score"},
                convert_reviews,
                ("fine_foods",),
                {"train": FINE_FOODS},
                True,
            ),
            _amazon("grocery", "Grocery_and_Gourmet_Food"),
        ),
        limit=20_000,
    ),
    "silicone": Recipe(
        "hub-emotion",
        (
            _silicone("meld_e", "meld"),
            _silicone("iemocap", "iemocap"),
            _silicone("dyda_e", *(f"dailydialog_{quarter}" for quarter in range(4))),
        ),
        limit=0,
    ),
    "nli": Recipe(
        "hub-nli",
        (
            Source("nyu-mll/multi_nli", PAIR | {"genre": "genre"}, convert_genres, tuple(GENRES)),
            Source("stanfordnlp/snli", PAIR, convert_pairs, ("snli_a", "snli_b")),
        ),
        limit=20_000,
    ),
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name; raise `ConfigError`, which lists the recipes, if there is none."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}; use one of {', '.join(RECIPES)}")
    return RECIPES[name]


def load_from_hub(source: Source) -> Splits:
    """Load the needed columns of a data set; a streaming one is shuffled with a fixed seed."""
    import datasets

    files = dict(source.data_files) or None
    loaded = datasets.load_dataset(source.path, data_files=files, streaming=source.streaming)
    loaded = loaded.select_columns(list(source.columns.values()))
    splits: Splits = loaded.shuffle(seed=SEED, buffer_size=SHUFFLE_BUFFER) if source.streaming else loaded
    return splits


def prepare_files(recipe: Recipe, out: Path, *, limit: int | None = None, load: Load = load_from_hub) -> Converted:
    """Load and convert all data sets of a recipe, and write all of its files or none.

    Parameters
    ----------
    recipe
        What to load, and how to convert it.
    out
        Folder of the files, created if it is missing.
    limit
        Rows of each file to keep at most; 0: all; None: the recipe's limit.
    load
        Returns the rows of a data set by split.

    Raises
    ------
    DataError
        If a file already exists, a data set cannot be loaded or leaves no rows, or `out` cannot be written.
    """
    taken = [f"{name}{SUFFIX}" for name in recipe.names if (out / f"{name}{SUFFIX}").exists()]
    if taken:
        raise DataError(f"{out}: {', '.join(taken)} already exist; move them away, or name another folder")
    limit = recipe.limit if limit is None else limit
    parts = [source.convert(_rows_by_split(source, load), source.names, limit=limit) for source in recipe.sources]
    files = {name: rows for part in parts for name, rows in part.files.items()}
    dropped = sum(part.dropped for part in parts)
    empty = [name for name, rows in files.items() if not rows]
    if empty:
        raise DataError(f"{', '.join(empty)}: 0 rows left, {dropped} dropped; the hub's labels or columns have changed")
    _write_files(files, out)
    return Converted(files, dropped)


def _rows_by_split(source: Source, load: Load) -> dict[str, Iterator[Row]]:
    try:
        splits = load(source)
    except Exception as error:
        raise _download_error(source, error) from None
    return {split: _renamed(source, rows) for split, rows in splits.items()}


def _renamed(source: Source, rows: Iterable[Row]) -> Iterator[Row]:
    try:
        for row in rows:
            yield {ours: row[theirs] for ours, theirs in source.columns.items()}
    except Exception as error:
        raise _download_error(source, error) from None


def _download_error(source: Source, error: Exception) -> DataError:
    return DataError(
        f"{source.address}: cannot be loaded from the hub ({type(error).__name__}); check the network,"
        f" and that it still has the columns {', '.join(source.columns.values())}"
    )


def _write_files(files: Mapping[str, list[dict[str, object]]], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as partial:
            for name, rows in files.items():
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                (Path(partial) / f"{name}{SUFFIX}").write_bytes(gzip.compress(lines.encode(), mtime=0))
            for name in files:
                (Path(partial) / f"{name}{SUFFIX}").rename(out / f"{name}{SUFFIX}")
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); name another folder") from None
