"""Put a table of keys into `reference/configuration.md` in the place of each `<!-- keys: SECTION -->`."""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types as bounds
import mkdocs_gen_files
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from knot_fed.config import RunConfig, kebab

PAGE = "reference/configuration.md"
MARK = re.compile(r"<!-- keys: ([a-z-]+) -->")
HEAD = "| key | type | default | bounds | meaning |\n| --- | --- | --- | --- | --- |\n"
SIGNS = {bounds.Ge: ("≥", "ge"), bounds.Gt: (">", "gt"), bounds.Le: ("≤", "le"), bounds.Lt: ("<", "lt")}


def table(section: type[BaseModel], prefix: str) -> str:
    """Return one row for each key of a section."""
    plain = {name: field for name, field in section.model_fields.items() if not is_section(field)}
    return HEAD + "".join(row(prefix + kebab(name), field) for name, field in plain.items())


def row(key: str, field: FieldInfo) -> str:
    """Return a key's row; its anchor is the key, with a dash for the dot."""
    anchor = f'<span id="{key.replace(".", "-")}">`{key}`</span>'
    cells = anchor, kind(field), f"`{shown(field.default)}`", limits(field), escaped(field.description or "")
    return f"| {' | '.join(cells)} |\n"


def is_section(field: FieldInfo) -> bool:
    """Return whether a field is a section and no key."""
    return isinstance(field.default, BaseModel)


def kind(field: FieldInfo) -> str:
    """Return a key's type, as TOML calls it."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return "string" if choices else {bool: "boolean", int: "integer", float: "float", str: "string"}[field.annotation]


def limits(field: FieldInfo) -> str:
    """Return a key's bounds: numbers, a length, or names."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{name}`" for name in get_args(field.annotation))
    return ", ".join(text for entry in field.metadata for text in limit(entry))


def limit(entry: Any) -> list[str]:
    """Return one bound as text; checks without a number are described in the text of the page."""
    if isinstance(entry, bounds.MaxLen):
        return [f"at most {entry.max_length:,} characters"]
    return [f"{sign} {number(getattr(entry, name))}" for kind, (sign, name) in SIGNS.items() if isinstance(entry, kind)]


def number(value: float) -> str:
    """Return a bound as a person writes it."""
    return "2^63" if value == 2**63 else f"{value:,}" if isinstance(value, int) else f"{value:,.12g}"


def shown(value: Any) -> str:
    """Return a default as TOML writes it."""
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else f"{value}"


def escaped(text: str) -> str:
    """Return a description as the text of a table's cell."""
    return text.replace("|", "\\|").replace("<", "&lt;")


SECTIONS = {kebab(name): type(field.default) for name, field in RunConfig.model_fields.items() if is_section(field)}


def filled(match: re.Match[str]) -> str:
    """Return the table of a section; `run` stands for the keys without a section."""
    return table(RunConfig, "") if match[1] == "run" else table(SECTIONS[match[1]], f"{match[1]}.")


text = (Path("docs") / PAGE).read_text(encoding="utf-8")
if set(MARK.findall(text)) != {"run", *SECTIONS}:
    raise SystemExit(f"{PAGE}: expected a mark for each of run, {', '.join(SECTIONS)}")
with mkdocs_gen_files.open(PAGE, "w") as page:
    page.write(MARK.sub(filled, text))
