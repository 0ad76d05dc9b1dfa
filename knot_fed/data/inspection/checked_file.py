"""One data file, looked at as a run would read it, with the configuration by which it does."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from knot_fed.config import RunConfig, flattened
from knot_fed.data.inspection.guess import Guess, guess_file, guess_labels
from knot_fed.data.inspection.survey import Survey, class_counts, survey_texts
from knot_fed.data.partition import CLIENT_NAME
from knot_fed.data.private import Columns, parts_of, read_labelled_texts, seed_key, texts_of
from knot_fed.data.reading.files import SUFFIXES, short_name
from knot_fed.data.reading.label_values import labels_of, number_of, read_labels
from knot_fed.errors import DataError
from knot_fed.types import SplitExamples, Text

PLACED = "labels lie as far apart as labels.coordinates says; leave these out where numbers are only codes"
UNPLACED = (
    "labels stand in the order of the alphabet, every two equally far apart; where some are nearer than others, give"
    " labels.coordinates"
)
MOST_NAMED = 5
MISSING = {"na", "n/a", "nan", "null", "none", "inf", "-inf", "#n/a"}
"""What programs write where a value is missing or cannot be computed, in small letters."""
FIELDS = tuple(field.name for field in fields(Columns))


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """What was found.

    Parameters
    ----------
    path, guess
        The file, and how it is cut into columns.
    survey
        Counts of its texts.
    classes
        Rows of each label by split; empty for a file without labels.
    settings
        The tables of a run's configuration that read the file.
    notes
        Sentences on how it is read, where one might think otherwise.
    """

    path: Path
    guess: Guess
    survey: Survey
    classes: Mapping[str, Counter[str]]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def read(self, config: RunConfig) -> SplitExamples:
        """Read the file by a configuration, split as a study with seed 1 does.

        Raises
        ------
        DataError
            If it cannot be learned from.
        """
        return read_labelled_texts(
            self.path, columns=Columns.from_settings(config.data), labels=config.label_space(), key=seed_key(1)
        )


def check_file(path: Path, given: Mapping[str, object]) -> CheckedFile:
    """Look at a file.

    Parameters
    ----------
    path
        The file.
    given
        Keys of a run's configuration that are known; others are guessed.

    Raises
    ------
    DataError
        If the file breaks a rule, or its labels cannot be told.
    """
    known = {name: str(given[key]) for name in FIELDS if (key := f"data.{name.replace('_', '-')}") in given}
    guess, name = guess_file(str(path), known), short_name(str(path))
    table, columns = guess.table, guess.columns
    texts = texts_of(table, columns, name=name)
    split = table.columns.get(columns.split) if columns.split else None
    parts = parts_of(split, len(texts), name=name, column=columns.split)
    settings: dict[str, object] = {"data": _data_settings(path, columns)}
    notes = [table.layout] if table.layout else []
    if not CLIENT_NAME.fullmatch(_stem(path)):
        notes.append("the name of the file cannot be a client's: use letters, digits, dots, dashes and underscores")
    labels: list[object] = [None] * len(texts)
    classes: Mapping[str, Counter[str]] = {}
    if columns.label:
        labels = labels_of(table, columns.label, name=name)
        if columns.label in labels:
            raise DataError(
                f"{name}: column {columns.label!r} has its own name as a value; give the file one header line"
            )
        settings = _label_settings(path, labels, given) | settings
        space = RunConfig.from_mapping(flattened(settings)).label_space()
        indices, how = read_labels(table, columns.label, space, name=name)
        classes = class_counts(indices, parts, space.names)
        notes += [how] if how else []
        if "labels.names" not in given and "labels" in settings:
            notes.append(PLACED if "coordinates" in str(settings["labels"]) else UNPLACED)
    if len({label.casefold() for label in classes}) < len(classes):
        notes.append("some labels differ in upper and lower case only")
    if missing := [label for label in classes if label.casefold() in MISSING]:
        notes.append(f"{', '.join(missing)} may stand for a missing label; drop these rows unless it is a class")
    survey = _survey(texts, labels, parts, given)
    return CheckedFile(path, guess, survey, classes, settings, tuple(notes))


def _survey(texts: tuple[Text, ...], labels: list[object], parts: np.ndarray, given: Mapping[str, object]) -> Survey:
    longest = given.get("teacher.max-length", RunConfig().teacher.max_length)
    return survey_texts(texts, labels, parts.tolist(), max_length=int(str(longest)))


def _label_settings(path: Path, values: list[object], given: Mapping[str, object]) -> dict[str, object]:
    """Return the task, and the label space where no task has it."""
    task, names, places = guess_labels(values)
    if "labels.names" in given:
        named = {key.removeprefix("labels."): value for key, value in given.items() if key.startswith("labels.")}
        return {"task": given.get("task", _stem(path)), "labels": named}
    if task or "task" in given:
        return {"task": given.get("task", task)}
    numbers = [name for name in names if number_of(name) is not None]
    if 0 < len(numbers) < len(names):
        words = [name for name in names if name not in numbers]
        raise DataError(
            f"{short_name(str(path))}: labels are partly numbers ({', '.join(numbers[:MOST_NAMED])}) and partly words"
            f" ({', '.join(words[:MOST_NAMED])}); mend them, or give all names by labels.names"
        )
    if any("," in name for name in names):
        raise DataError(
            f"{short_name(str(path))}: labels with a comma, which no label name can have; write them in the file"
            " without one, and numbers with a point"
        )
    if len(names) < 2:
        raise DataError(
            f"{short_name(str(path))}: {len(names)} distinct label; give the names that all owners of the run share,"
            " without commas, such as 'labels.names=\"bad, good\"'"
        )
    if len(names) > len(values) // 2:
        raise DataError(
            f"{short_name(str(path))}: {len(names)} distinct labels in {len(values)} rows are not classes; name the"
            " label column by data.label=NAME"
        )
    labels = {"names": ", ".join(names)} | ({"coordinates": "; ".join(places)} if places else {})
    return {"task": _stem(path), "labels": labels}


def _data_settings(path: Path, columns: Columns) -> dict[str, str]:
    """Return what of the table `data` is not the default, with the file's folder and name."""
    usual, stem = Columns(), _stem(path)
    roles = {"clients": stem, "public": "PUBLIC", "transfer": "TRANSFER"} if columns.label else {"transfer": stem}
    other = {
        name: getattr(columns, name) for name in FIELDS if getattr(columns, name) not in ("", getattr(usual, name))
    }
    return (
        {"root": str(path.resolve().parent)} | roles | {name.replace("_", "-"): value for name, value in other.items()}
    )


def _stem(path: Path) -> str:
    return path.name.removesuffix(next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), ""))
