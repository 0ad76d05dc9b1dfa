"""What a stranger's file probably is: how its fields are cut, and which column plays which role."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from knot_fed.data.private import SPLITS, Columns
from knot_fed.data.reading.files import file_dialect, file_kind, read_table
from knot_fed.data.reading.label_values import number_of
from knot_fed.data.reading.separated import Dialect
from knot_fed.data.reading.table import DELIMITERS, Table
from knot_fed.errors import DataError
from knot_fed.labels import PRESETS

TEXTS = ("text", "review", "sentence", "content", "body", "comment", "message", "tweet", "utterance", "document")
PAIRS = (("text_a", "text_b"), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("text1", "text2"))
LABELS = (
    "label",
    "labels",
    "stars",
    "rating",
    "score",
    "sentiment",
    "class",
    "category",
    "target",
    "emotion",
    "polarity",
    "topic",
    "intent",
    "y",
)
SPLIT_NAMES = ("split", "part", "partition", "set", "fold", "subset")
MOST_GUESSED = 100
"""Labels of a column that no name says to be the labels'."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A file's table with all columns, and the settings by which it is read.

    `columns.label` and `columns.split` are empty where there is none.
    """

    table: Table
    columns: Columns


def guess_file(path: str, given: Mapping[str, str]) -> Guess:
    """Read a file as one would guess that it is meant.

    Parameters
    ----------
    path
        As in `read_table`.
    given
        Fields of `Columns` that are known.

    Raises
    ------
    DataError
        If the file cannot be read under any delimiter and quoting; the message is about the usual ones.
    """
    table, dialect = _guess_dialect(path, given.get("delimiter", ""), given.get("quoting", ""))
    texts = _guess_texts(table, given)
    split = given.get("split") or _guess_split(table, texts.values())
    label = given.get("label") or _guess_label(table, {*texts.values(), split})
    separator = given.get("separator", "")
    return Guess(
        table,
        Columns(
            **texts,
            label=label,
            split=split,
            separator=separator,
            delimiter=dialect.delimiter,
            quoting=dialect.quoting,
        ),
    )


def _guess_dialect(path: str, delimiter: str, quoting: str) -> tuple[Table, Dialect]:
    """Return the first way of cutting fields by which rows are even and have two columns, or else the usual one."""
    delimiters = [delimiter] if delimiter else ["", *DELIMITERS]
    usual, *others = [Dialect(each, how) for each in delimiters for how in _quotings(path, each, quoting)]
    single: Table | None = None
    problem: DataError | None = None
    try:
        single = read_table(path, None, dialect=usual)
    except DataError as error:
        problem = error
    if single and (len(single.names) > 1 or file_kind(path) not in ("csv", "tsv")):
        return single, usual
    for dialect in others:
        with suppress(DataError):
            table = read_table(path, None, dialect=dialect)
            if len(table.names) > 1 and not _still_quoted(table):
                return table, dialect
    if single is None:
        raise problem or DataError(f"{path}: cannot be read")
    return single, usual


def _still_quoted(table: Table) -> bool:
    """Tell whether most fields of a column stand between quotation marks: they would become part of the texts."""
    return any(
        2 * sum(isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"' for value in values)
        > len(table)
        for values in table.columns.values()
    )


def _quotings(path: str, delimiter: str, quoting: str) -> tuple[str, ...]:
    if quoting:
        return (quoting,)
    return "auto", "none" if file_dialect(path, Dialect(delimiter)).quoted else "double"


def _guess_texts(table: Table, given: Mapping[str, str]) -> dict[str, str]:
    named = {field: given[field] for field in ("text", "text_a", "text_b") if given.get(field)}
    if named:
        return named
    known = _first(TEXTS, table.names)
    if known:
        return {"text": known}
    for pair in PAIRS:
        if all(name in table.names for name in pair):
            return dict(zip(("text_a", "text_b"), pair, strict=True))
    lengths = {
        name: sum(len(value) for value in values if isinstance(value, str)) for name, values in table.columns.items()
    }
    return {"text": max(lengths, key=lambda name: lengths[name])} if any(lengths.values()) else {}


def _guess_split(table: Table, taken: Collection[str]) -> str:
    for name in (*SPLIT_NAMES, *table.names):
        found = next((column for column in table.names if column.lower() == name.lower()), "")
        values = {str(value).strip().lower() for value in table.columns.get(found, [])}
        if found and found not in taken and values <= SPLITS.keys():
            return found
    return ""


def _guess_label(table: Table, taken: Collection[str]) -> str:
    """Return the column that is named like labels, or else the one with the fewest values, each several times."""
    counts = {name: len(set(map(str, values))) for name, values in table.columns.items() if name not in taken}
    known = _first(LABELS, list(counts))
    if known:
        return known
    few = {name: count for name, count in counts.items() if 2 <= count <= min(MOST_GUESSED, len(table) // 2)}
    return min(few, key=lambda name: few[name]) if few else ""


def _first(wanted: Collection[str], names: Collection[str]) -> str:
    return next((column for name in wanted for column in names if column.lower() == name), "")


def guess_labels(values: Collection[object]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return the task whose preset has just these labels, their names, and where they are known their coordinates.

    Numbers are their own coordinates; some of a preset's names have its order and coordinates.

    Examples
    --------
    >>> guess_labels([1.0, 5.0, 2.0])
    ('', ('1', '2', '5'), ('1', '2', '5'))
    >>> guess_labels(["positive", "neutral", "negative"])
    ('', ('negative', 'neutral', 'positive'), ('-1', '0', '1'))
    >>> guess_labels(["neutral", "entailment", "contradiction"])[0]
    'nli'
    """
    kept = [value for value in values if value is not None and value == value and str(value).strip()]
    if any(isinstance(value, bool) for value in kept):
        return "", ("false", "true"), ()
    numbers = {number_of(value) for value in kept}
    if None not in numbers:
        spelt = tuple(_spelt(number) for number in sorted(number for number in numbers if number is not None))
        return "", spelt, spelt
    names = {str(value).strip() for value in kept}
    for task, places in PRESETS.items():
        if names <= set(places):
            ordered = tuple(name for name in places if name in names)
            coordinates = tuple(",".join(map(_spelt, places[name])) for name in ordered)
            return ("" if len(names) < len(places) else task), ordered, coordinates
    return "", tuple(sorted(names)), ()


def _spelt(number: float) -> str:
    return str(int(number)) if number.is_integer() else repr(number)
