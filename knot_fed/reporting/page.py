"""The page of a report: one self-contained HTML file, light and dark, for desktop, phone and paper."""

import base64
import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from knot_fed.errors import RunFolderError, writing_failed
from knot_fed.files import shorten_paths
from knot_fed.reporting.document.script import SCRIPT
from knot_fed.reporting.document.style import STYLE
from knot_fed.reporting.document.template import TEMPLATE

GENERATOR = "<meta name='generator' content='knot_fed'>"
MOST_ROWS = 200
"""Values of a figure that the page shows as a table; its CSV file has all."""
FORMULA = ("=", "@", "\t", "\r", "+", "-")
"""Starts of words that spreadsheets would compute."""
Value: TypeAlias = str | int | float | None
MARKS = {"better": "▲ better", "worse": "▼ worse", "undecided": "= undecided"}


@dataclass(frozen=True, slots=True)
class TableCell:
    """A cell: its text, its sort key (a number or words; empty sorts last) and its style."""

    text: str
    key: str = ""
    style: str = ""


@dataclass(frozen=True, slots=True)
class PageTable:
    """A sortable table; the first cell of a row is its heading, and the foot stays at the bottom."""

    caption: str
    heads: Sequence[TableCell]
    rows: Sequence[Sequence[TableCell]]
    foot: Sequence[TableCell] = ()
    folded: bool = False


@dataclass(frozen=True, slots=True)
class FigureData:
    """The values of a figure, one row for each mark; None and NaN are empty in the CSV file."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]

    @property
    def csv(self) -> str:
        """The CSV file: numbers in full, and no word that a spreadsheet would compute.

        Examples
        --------
        >>> FigureData(["client", "sd"], [["=1+1", 0.1], ["b", None]]).csv.splitlines()
        ['client,sd', "'=1+1,0.1", 'b,']
        """
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(_in_csv, self.columns))
        writer.writerows(map(_in_csv, row) for row in self.rows)
        return file.getvalue()

    @property
    def uri(self) -> str:
        """The CSV file as a data URI."""
        return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(self.csv.encode()).decode()}"

    @property
    def shown(self) -> list[list[str]]:
        """The values as the page shows them, rounded."""
        return [[_rounded(value) for value in row] for row in self.rows]


def _in_csv(value: Value) -> str | int | float:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _rounded(value: Value) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as a data URI, with a name for its files, a text alternative, and its values."""

    source: str
    name: str
    description: str
    caption: str
    data: FigureData


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence with an interval, and its verdict: better, worse, undecided, or empty without one."""

    text: str
    verdict: str = ""

    @property
    def mark(self) -> str:
        """The verdict with a sign."""
        return MARKS.get(self.verdict, "")


Facts: TypeAlias = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class PageSection:
    """A heading with its claims, facts, text, tables and figures, in this order."""

    heading: str
    text: str = ""
    tables: Sequence[PageTable] = ()
    figures: Sequence[Picture] = ()
    claims: Sequence[Claim] = ()
    facts: Facts = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A report; an error is shown first."""

    title: str
    sections: Sequence[PageSection]
    subtitle: str = ""
    error: str = field(default="")

    @property
    def slug(self) -> str:
        """The title in letters and digits, for names of files."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.title).strip("-").lower() or "report"


def render(page: Page) -> str:
    """Return the page as HTML, with all texts escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE, globals={"page": page, "most_rows": MOST_ROWS})
    return template.render(generator=Markup(GENERATOR), style=Markup(STYLE), script=Markup(SCRIPT))


def words(text: object) -> TableCell:
    """Return a cell of words, sorted alphabetically."""
    shown = shorten_paths(str(text))
    return TableCell(shown, shown, "words")


def number(value: float | int | None, digits: int = 3, *, signed: bool = False, suffix: str = "") -> TableCell:
    """Return a cell with a number; empty for None and non-finite values.

    Examples
    --------
    >>> number(0.25, suffix=" ± 0.1")
    TableCell(text='0.250 ± 0.1', key='0.25', style='')
    """
    if value is None or not math.isfinite(value):
        return TableCell("")
    return TableCell(f"{value:{'+' if signed else ''},.{digits}f}{suffix}", repr(float(value)))


def verdict_cell(verdict: str) -> TableCell:
    """Return a cell with a verdict, by word, sign and colour."""
    return TableCell(MARKS.get(verdict, verdict), verdict, f"words {verdict}")


def write_page(page: Page, file: Path) -> None:
    """Write the page.

    Raises
    ------
    RunFolderError
        If the file cannot be written.
    """
    html = render(page)
    try:
        file.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {writing_failed(error)}") from None


def refuse_foreign(file: Path) -> None:
    """Refuse to overwrite a file that is not a knot_fed report.

    Raises
    ------
    RunFolderError
        If the file exists and is not one.
    """
    if file.exists() and not (file.is_file() and GENERATOR in file.read_text(encoding="utf-8", errors="replace")):
        raise RunFolderError(f"{file}: already exists and is not a knot_fed report; give another file by --out")
