"""A data file as a run would read it, and the configuration for it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from knot_fed.config import RunConfig, flattened
from knot_fed.data.inspection.guess import Guess, guess_file, guess_labels
from knot_fed.data.partition import CLIENT_NAME
from knot_fed.data.private import PARTS, Columns, parts_of, read_labelled_texts, seed_key, texts_of
from knot_fed.data.reading.files import SUFFIXES, short_name
from knot_fed.data.reading.label_values import labels_of, number_of, read_labels
from knot_fed.data.transfer_set import text_key
from knot_fed.errors import DataError
from knot_fed.types import SplitExamples, Text

PLACED = "the distances of labels follow from labels.coordinates; omit these if the numbers are only codes"
UNPLACED = (
    "labels are in alphabetical order, every two equally far apart; if some are nearer than others, give"
    " labels.coordinates"
)
MOST_NAMED = 5
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MISSING = {"na", "n/a", "nan", "null", "none", "inf", "-inf", "#n/a"}
"""Common spellings, in lower case, of values that are missing or cannot be computed."""
FIELDS = tuple(field.name for field in fields(Columns))


@dataclass(frozen=True, slots=True)
class Survey:
    """Counts of a file's texts.

    `characters` and `words` are the shortest, median and longest text. The others count texts with more words than a
    teacher reads tokens (`long`), rows that repeat an earlier text of their split (`repeated`), texts with more than
    one label (`contradicting`) or in two splits (`shared`), and texts with a replacement character of an earlier
    conversion.
    """

    characters: tuple[int, float, int]
    words: tuple[int, float, int]
    long: int
    repeated: int
    contradicting: int
    shared: dict[tuple[str, str], int]
    replaced: int


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """The findings about one file: rows of each label by split (empty without labels), and counts of its texts.

    `settings` are the tables of the run configuration that reads it, and `notes` are sentences on what may surprise its
    owner.
    """

    path: Path
    guess: Guess
    survey: Survey
    classes: Mapping[str, Counter[str]]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def name_note(self) -> str:
        """A sentence if a client cannot be named after the file; else empty."""
        rule = "use letters, digits, dots, dashes and underscores"
        return "" if CLIENT_NAME.fullmatch(_stem(self.path)) else f"the name of the file cannot be a client's: {rule}"

    def read(self, config: RunConfig) -> SplitExamples:
        """Read the file with a configuration, split as in a study with seed 1; raise `DataError` if it cannot be."""
        columns = Columns.from_settings(config.data)
        return read_labelled_texts(self.path, columns=columns, labels=config.label_space(), key=seed_key(1))


def check_file(path: Path, given: Mapping[str, object]) -> CheckedFile:
    """Inspect a file; keys of the run configuration in `given` are known, and the others are guessed.

    Raises
    ------
    DataError
        If the file breaks a rule, or its labels cannot be guessed.
    """
    known = {name: str(given[key]) for name in FIELDS if (key := f"data.{name.replace('_', '-')}") in given}
    guess, name = guess_file(str(path), known), short_name(str(path))
    table, columns = guess.table, guess.columns
    texts = texts_of(table, columns, name=name)
    split = table.columns.get(columns.split) if columns.split else None
    parts = parts_of(split, len(texts), name=name, column=columns.split)
    settings: dict[str, object] = {"data": _data_settings(path, columns)}
    notes = [table.layout] if table.layout else []
    labels: list[object] = [None] * len(texts)
    classes: dict[str, Counter[str]] = {}
    if columns.label:
        labels = labels_of(table, columns.label, name=name)
        if columns.label in labels:
            raise DataError(
                f"{name}: column {columns.label!r} has its own name as a value; give the file one header line"
            )
        settings = _label_settings(path, labels, given) | settings
        space = RunConfig.from_mapping(flattened(settings)).label_space()
        indices, how = read_labels(table, columns.label, space, name=name)
        classes = {label: Counter(parts[indices == index].tolist()) for index, label in enumerate(space.names)}
        notes += [how] if how else []
        if "labels.names" not in given and "labels" in settings:
            notes.append(PLACED if "coordinates" in str(settings["labels"]) else UNPLACED)
    if len({label.casefold() for label in classes}) < len(classes):
        notes.append("some labels differ in upper and lower case only")
    if missing := [label for label in classes if label.casefold() in MISSING]:
        notes.append(f"{', '.join(missing)} may stand for a missing label; drop these rows unless it is a class")
    longest = int(str(given.get("teacher.max-length", RunConfig().teacher.max_length)))
    survey = _survey(texts, labels, parts.tolist(), max_length=longest)
    return CheckedFile(path, guess, survey, classes, settings, tuple(notes))


def _survey(texts: Sequence[Text], labels: Sequence[object], parts: Sequence[str], *, max_length: int) -> Survey:
    """Count texts, given their labels (or None) and splits; a teacher reads `max_length` tokens."""
    whole = [text if isinstance(text, str) else " ".join(text) for text in texts]
    words = [len(text.split()) for text in whole]
    keys = [text_key(text) for text in texts]
    by_part = {part: {key for key, its_part in zip(keys, parts, strict=True) if its_part == part} for part in PARTS}
    labels_by_text = Counter(key for key, _ in {(key, str(label)) for key, label in zip(keys, labels, strict=True)})
    return Survey(
        characters=_spread([len(text) for text in whole]),
        words=_spread(words),
        long=sum(count > max_length for count in words),
        repeated=len(keys) - sum(map(len, by_part.values())),
        contradicting=sum(count > 1 for count in labels_by_text.values()),
        shared={(one, other): len(by_part[one] & by_part[other]) for one, other in combinations(PARTS, 2)},
        replaced=sum(REPLACEMENT in text for text in whole),
    )


def _spread(lengths: Sequence[int]) -> tuple[int, float, int]:
    return min(lengths), float(median(lengths)), max(lengths)


def _label_settings(path: Path, values: list[object], given: Mapping[str, object]) -> dict[str, object]:
    """Return the task, and the label space unless it is a preset."""
    task, names, places = guess_labels(values)
    if "labels.names" in given:
        named = {key.removeprefix("labels."): value for key, value in given.items() if key.startswith("labels.")}
        return {"task": given.get("task", _stem(path)), "labels": named}
    if task or "task" in given:
        return {"task": given.get("task", task)}
    problem = _label_problem(names, rows=len(values))
    if problem:
        raise DataError(f"{short_name(str(path))}: {problem}")
    labels = {"names": ", ".join(names)} | ({"coordinates": "; ".join(places)} if places else {})
    return {"task": _stem(path), "labels": labels}


def _label_problem(names: tuple[str, ...], *, rows: int) -> str:
    """Describe why values of a label column cannot be label names; empty if they can."""
    numbers = [name for name in names if number_of(name) is not None]
    if 0 < len(numbers) < len(names):
        words = [name for name in names if name not in numbers]
        return (
            f"labels are partly numbers ({', '.join(numbers[:MOST_NAMED])}) and partly words"
            f" ({', '.join(words[:MOST_NAMED])}); correct them, or give all names by labels.names"
        )
    if any("," in name for name in names):
        return (
            "labels with a comma, which no label name can have; write them in the file without one, and numbers with a"
            " point"
        )
    if len(names) < 2:
        return (
            f"{len(names)} distinct label; give the names that all owners of the run share, without commas, such as"
            " 'labels.names=\"bad, good\"'"
        )
    if len(names) > rows // 2:
        return f"{len(names)} distinct labels in {rows} rows are not classes; name the label column by data.label=NAME"
    return ""


def _data_settings(path: Path, columns: Columns) -> dict[str, str]:
    """Return the table `data` without defaults, with the file's folder and name."""
    usual, stem = Columns(), _stem(path)
    roles = {"clients": stem, "public": "PUBLIC", "transfer": "TRANSFER"} if columns.label else {"transfer": stem}
    other = {
        name.replace("_", "-"): value
        for name in FIELDS
        if (value := getattr(columns, name)) not in ("", getattr(usual, name))
    }
    return {"root": str(path.resolve().parent)} | roles | other


def _stem(path: Path) -> str:
    return path.name.removesuffix(next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), ""))
