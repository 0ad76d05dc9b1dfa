"""A strict reader for csv and tsv files; errors name the malformed line.

Files are UTF-8 with a header line and a delimiter of one character; lines end with LF, CRLF or CR. With double quoting,
a field that starts with a quotation mark ends with one, may contain delimiters and line ends, and doubles the quotation
marks inside; in other fields a quotation mark is literal. Without quoting, all quotation marks are literal and each row
is one line.
"""

import csv
import re
from array import array
from collections.abc import Collection
from dataclasses import dataclass

from knot_fed.data.reading.table import Table, check_columns
from knot_fed.errors import DataError

LONGEST_FIELD = 2**31 - 1
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
"""Lines as a text file opened with newline='' has them; such a file would need four bytes a character."""
EXCEL = re.compile(r"\"?sep=.\"?[\r\n]")
LINES_OF_ONE_WIDTH = 4
"""Lines with the header's number of fields inside one quoted text that are taken for rows."""
CLOSE_OR_DOUBLE = "close it, double quotation marks inside texts, or set data.quoting = 'none'"


@dataclass(frozen=True, slots=True)
class Dialect:
    """Delimiter and quoting of a csv or tsv file.

    An empty delimiter is a tab in tsv files, otherwise a comma. Quoting is `double`, `none`, or `auto`: none if the
    delimiter is a tab, otherwise double; a file that seems to use the other one is refused.
    """

    delimiter: str = ""
    quoting: str = "auto"

    @property
    def quoted(self) -> bool:
        """Whether fields may be quoted."""
        return self.quoting == "double" or (self.quoting == "auto" and self.delimiter != "\t")


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """The fields of each row, its first and its last line."""

    fields: list[list[str]]
    first: "array[int]"
    last: "array[int]"

    def __len__(self) -> int:
        return len(self.fields)


def read_separated(content: str, wanted: Collection[str] | None, *, name: str, dialect: Dialect) -> Table:
    """Read the wanted columns (None: all); raise `DataError` if the text is malformed or contradicts `auto` quoting."""
    if EXCEL.match(content):
        raise DataError(
            f"{name}: line 1 is Excel's sep= line, not a header; delete it and set data.delimiter",
            refusal="the first line is not a header",
        )
    names, records, layout = _read_records(content, name=name, dialect=dialect)
    check_columns(names, names if wanted is None else wanted, name=name)
    if dialect.quoting == "auto" and not dialect.quoted:
        _check_unquoted(names, records, name=name)
    _check_even(records, len(names), name=name, quoted=dialect.quoted)
    if dialect.quoting == "auto" and dialect.quoted:
        _check_swallowed(records, len(names), name=name, delimiter=dialect.delimiter)
    columns: dict[str, list[object]] = {
        column: [fields[place] for fields in records.fields]
        for place, column in enumerate(names)
        if wanted is None or column in wanted
    }
    return Table(columns, tuple(names), records.first, layout=layout)


def _read_records(content: str, *, name: str, dialect: Dialect) -> tuple[list[str], Records, str]:
    """Return the header's names, the rows that are not blank, and a sentence on rows and lines if it is needed."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(
        (line[0] for line in LINE.finditer(content)),
        delimiter=dialect.delimiter,
        quotechar='"',
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
        strict=True,
    )
    records, ends, blank = Records([], array("q"), array("q")), 0, 0
    try:
        names = next(reader, [])
        of_header = ends = reader.line_num
        for fields in reader:
            if fields:
                records.fields.append(fields)
                records.first.append(ends + 1)
                records.last.append(reader.line_num)
            else:
                blank += 1
            ends = reader.line_num
    except csv.Error as error:
        fault = f"a quoted field continues after its closing mark, in line {reader.line_num}"
        if "unexpected end" in str(error):
            fault = "a quotation mark opens a field that is never closed"
        raise DataError(
            f"{name}: line {ends + 1}: {fault}; {CLOSE_OR_DOUBLE}", refusal="quotation marks of a row do not match"
        ) from None
    inside, layout = sum(records.last) - sum(records.first), ""
    if blank or inside:
        layout = (
            f"{len(records)} rows on {ends} lines: {of_header} of the header, {blank} blank, {inside} more inside"
            " quoted texts"
        )
    return names, records, layout


def _check_even(records: Records, fields: int, *, name: str, quoted: bool) -> None:
    uneven = [place for place, row in enumerate(records.fields) if len(row) != fields]
    if uneven:
        remedy = (
            "quote texts that hold it or a line end" if quoted else "set data.quoting = 'double' if texts are quoted"
        )
        raise DataError(
            f"{name}: line {records.first[uneven[0]]}: {len(uneven)} of {len(records)} rows do not have the header's"
            f" {fields} fields, this one has {len(records.fields[uneven[0]])}; check data.delimiter, and {remedy}",
            refusal="some rows have other fields than the header",
        )


def _check_unquoted(names: list[str], records: Records, *, name: str) -> None:
    """Refuse fields that look quoted: doubled quotation marks inside quotation marks, or most fields enclosed."""
    rows = records.fields
    quoted = [records.first[place] for place, row in enumerate(rows) if any(map(_doubled, row))]
    if any(map(enclosed, names)):
        quoted = [1, *quoted]
    for column in zip(*rows, strict=False):
        if 2 * sum(map(enclosed, column)) > len(rows):
            quoted = [*quoted, records.first[0]]
    if quoted:
        raise DataError(
            f"{name}: line {quoted[0]}: a field is quoted as in csv, and tab-separated files are read without"
            " quoting; set data.quoting = 'double', or 'none' if the marks belong to the texts",
            refusal="fields are quoted in a file that is read without quoting",
        )


def enclosed(field: str) -> bool:
    """Return whether a field starts and ends with a quotation mark."""
    return len(field) > 1 and field[0] == field[-1] == '"'


def _doubled(field: str) -> bool:
    inner = field[1:-1]
    return enclosed(field) and '""' in inner and '"' not in inner.replace('""', "")


def _check_swallowed(records: Records, fields: int, *, name: str, delimiter: str) -> None:
    """Refuse a quoted text with lines that look like rows: a stray quotation mark may have swallowed them."""
    several = [
        place for place, (first, last) in enumerate(zip(records.first, records.last, strict=True)) if first < last
    ]
    if not several or fields < 2:
        return
    longer = set(several)
    plain = [row for place, row in enumerate(records.fields) if place not in longer]
    values = [set(column) for column in zip(*plain, strict=True)]
    repeating = {place: known for place, known in enumerate(values) if 2 * len(known) <= len(plain)}
    for row in several:
        for place, field in enumerate(records.fields[row]):
            lines = field.splitlines()
            inside = [line.split(delimiter) for line in lines[place > 0 : len(lines) - (place < fields - 1)]]
            around = {other: known for other, known in repeating.items() if other != place}
            same_width = len(inside) >= LINES_OF_ONE_WIDTH and all(len(cells) == fields for cells in inside)
            if same_width or any(_is_row(cells, fields, place, around) for cells in inside):
                raise DataError(
                    f"{name}: line {records.first[row]}: a quoted field extends to line {records.last[row]} and"
                    f" contains what look like rows; {CLOSE_OR_DOUBLE}, or 'double' if it is one text",
                    refusal="a quoted field contains what look like rows",
                )


def _is_row(cells: list[str], fields: int, place: int, around: dict[int, set[str]]) -> bool:
    """Return whether a line has known values before and after the text, which may contain delimiters itself."""
    after = len(cells) - fields
    found = [cells[other if other < place else other + after] in known for other, known in around.items() if after >= 0]
    return bool(found) and all(found)
