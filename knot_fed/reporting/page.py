"""The page of a report: one self-contained HTML file, light and dark, for desktop and phone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from knot_fed.errors import RunFolderError, writing_failed
from knot_fed.files import shorten_paths

GENERATOR = "<meta name='generator' content='knot_fed'>"

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5a6068; --paper: #fff; --card: #f5f6f8; --line: #d5d8dd;
  --good: #00598c; --bad: #a83f00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a8aeb6; --paper: #16181c; --card: #1f2228;
  --line: #3a3f47; --good: #6cc0f2; --bad: #f0a04b; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p { max-width: 46rem; } .error { border-left: .3rem solid var(--bad); padding: .5rem 1rem; background: var(--card); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
.scroll { overflow-x: auto; margin: .3rem 0; }
.scroll:focus-visible, button:focus-visible, summary:focus-visible { outline: 2px solid var(--good); }
figure.table { background: none; padding: 0; margin: 1rem 0; }
table { overflow-wrap: break-word; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; white-space: nowrap; }
td.words, th.words { text-align: left; } td.words { white-space: normal; max-width: 24rem; min-width: 4rem; }
thead th { border-bottom: 2px solid var(--line); } tbody tr + tr > * { border-top: 1px solid var(--line); }
tfoot > tr > * { border-top: 2px solid var(--line); font-weight: 600; }
tbody th, tfoot th { font-weight: 600; text-align: left; white-space: normal;
  max-width: 12rem; min-width: 8.5rem; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th button::after { content: "\\2195"; opacity: .45; padding-left: .3em; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
.better { color: var(--good); font-weight: 600; } .worse { color: var(--bad); font-weight: 600; }
.undecided { color: var(--soft); }
td.words.better, td.words.worse, td.words.undecided { white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .8rem; background: var(--card); border-radius: .5rem; }
figure img { display: block; width: 100%; max-width: 34rem; height: auto; margin: 0 auto; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
summary { cursor: pointer; color: var(--soft); }
"""

SCRIPT = """
for (const head of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending", body = head.closest("table").tBodies[0];
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[head.cellIndex].dataset.key ?? "";
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
}
"""

TEMPLATE = """
{%- macro cell(cell, row_head) -%}
{%- set tag = "th scope='row'" if row_head else "td" -%}
<{{ tag | safe }} class='{{ cell.style }}' data-key='{{ cell.key }}'>{{ cell.text }}</{{ tag[:2] }}>
{%- endmacro -%}
{%- macro row(cells) -%}
<tr>{% for entry in cells %}{{ cell(entry, loop.first) }}{% endfor %}</tr>
{% endmacro -%}
{%- macro table(table) -%}
<figure class='table'>{% if not table.folded %}<figcaption>{{ table.caption }}</figcaption>{% endif %}
<div class='scroll' tabindex='0' role='region' aria-label='{{ table.caption }}'>
<table class='sortable' aria-label='{{ table.caption }}'>
<thead><tr>{% for head in table.heads %}<th scope='col' class='{{ head.style }}'>{{ head.text }}</th>{% endfor %}</tr>
</thead><tbody>
{% for cells in table.rows %}{{ row(cells) }}{% endfor %}</tbody>
{% if table.foot %}<tfoot>{{ row(table.foot) }}</tfoot>{% endif %}
</table></div></figure>
{% endmacro -%}
<!doctype html>
<html lang='en'><head><meta charset='utf-8'>
<meta name='viewport' content='width=device-width, initial-scale=1'>
{{ generator }}
<title>{{ page.title }}</title>
<style>{{ style }}</style></head>
<body>
<h1>{{ page.title }}</h1>
{% if page.error %}<p class='error'>{{ page.error }}</p>{% endif %}
<dl>{% for name, value in page.facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% for section in page.sections %}
<section><h2>{{ section.heading }}</h2>
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
{% for entry in section.tables %}
{% if entry.folded %}<details><summary>{{ entry.caption }}</summary>{{ table(entry) }}</details>
{% else %}{{ table(entry) }}{% endif %}{% endfor %}
{% if section.figures %}<div class='figures'>
{% for figure in section.figures %}
<figure><img src='{{ figure.source }}' alt='{{ figure.description }}'>
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}</div>{% endif %}
</section>
{% endfor %}
<script>{{ script }}</script>
</body></html>
"""


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
class Picture:
    """A figure as a data URI, with a text alternative."""

    source: str
    description: str
    caption: str


@dataclass(frozen=True, slots=True)
class PageSection:
    """A heading with its tables and figures."""

    heading: str
    text: str = ""
    tables: Sequence[PageTable] = ()
    figures: Sequence[Picture] = ()


Facts: TypeAlias = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Page:
    """A report; an error is shown first."""

    title: str
    facts: Facts
    sections: Sequence[PageSection]
    error: str = field(default="")


def render(page: Page) -> str:
    """Return the page as HTML, with all texts escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE)
    return template.render(page=page, generator=Markup(GENERATOR), style=Markup(STYLE), script=Markup(SCRIPT))


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
