"""Guesses about an unknown file: its delimiter and quoting, and the roles of its columns."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from knot_fed.data.private import SPLITS, Columns
from knot_fed.data.reading.files import file_dialect, file_kind, read_table
from knot_fed.data.reading.label_values import number_of
from knot_fed.data.reading.separated import Dialect, enclosed
from knot_fed.data.reading.table import DELIMITERS, Table
from knot_fed.errors import DataError
from knot_fed.labels import PRESETS

TEXTS = ("text", "review", "sentence", "content", "body", "comment", "message", "tweet", "utterance", "document")
PAIRS = (("text_a", "text_b"), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("text1", "text2"))
LABELS = (
    "label", "labels", "stars", "rating", "score", "sentiment", "class", "category", "target", "emotion", "polarity",
    "topic", "intent", "y",
)  # fmt: skip
SPLIT_NAMES = ("split", "part", "partition", "set", "fold", "subset")
MOST_GUESSED = 100
"""Most distinct values of a label column that its name does not give away."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A file's table with all columns, and how to read it; `columns.label` and `columns.split` may be empty."""

    table: Table
    columns: Columns


def guess_file(path: str, given: Mapping[str, str]) -> Guess:
    """Read a file with guessed settings, except the fields of `Columns` in `given`.

    Raises `DataError`, about the default settings, if no delimiter and quoting fits.
    """
    table, dialect = _guess_dialect(path, given.get("delimiter", ""), given.get("quoting", ""))
    texts = _guess_texts(table, given)
    split = given.get("split") or _guess_split(table, texts.values())
    label = given.get("label") or _guess_label(table, {*texts.values(), split})
    rest = {"separator": given.get("separator", ""), "delimiter": dialect.delimiter, "quoting": dialect.quoting}
    return Guess(table, Columns(**texts, label=label, split=split, **rest))


def _guess_dialect(path: str, delimiter: str, quoting: str) -> tuple[Table, Dialect]:
    """Return the first dialect that gives even rows with two or more columns, or else the default one."""
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
    """Return whether most fields of a column are in quotation marks, which would become part of the texts."""
    return any(
        2 * sum(isinstance(value, str) and enclosed(value) for value in values) > len(table)
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
    return {"text": max(lengths, key=lengths.__getitem__)} if any(lengths.values()) else {}


def _guess_split(table: Table, taken: Collection[str]) -> str:
    for name in (*SPLIT_NAMES, *table.names):
        found = _first([name.lower()], table.names)
        values = {str(value).strip().lower() for value in table.columns.get(found, [])}
        if found and found not in taken and values <= SPLITS.keys():
            return found
    return ""


def _guess_label(table: Table, taken: Collection[str]) -> str:
    """Return the column with a typical label name, or else the one with the fewest values, each repeated."""
    counts = {name: len(set(map(str, values))) for name, values in table.columns.items() if name not in taken}
    known = _first(LABELS, counts)
    if known:
        return known
    few = {name: count for name, count in counts.items() if 2 <= count <= min(MOST_GUESSED, len(table) // 2)}
    return min(few, key=few.__getitem__) if few else ""


def _first(wanted: Collection[str], names: Collection[str]) -> str:
    return next((column for name in wanted for column in names if column.lower() == name), "")


def guess_labels(values: Collection[object]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return the task whose preset has exactly these labels (or ""), the label names, and their known coordinates.

    Numbers are their own coordinates; a subset of a preset's names takes its order and coordinates.

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
