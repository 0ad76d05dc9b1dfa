"""Put a table of keys into `reference/configuration.md` in the place of each `<!-- keys: SECTION -->`."""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import mkdocs_gen_files
from annotated_types import MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from knot_fed.config import RunConfig, kebab

PAGE = "reference/configuration.md"
MARK = re.compile(r"<!-- keys: ([a-z-]+) -->")
HEAD = "| key | default | type | meaning |\n| --- | --- | --- | --- |\n"
KINDS: dict[Any, str] = {bool: "boolean", int: "integer", float: "float", str: "string"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def table(section: type[BaseModel], prefix: str) -> str:
    """Return one row for each key of a section."""
    plain = {name: field for name, field in section.model_fields.items() if not is_section(field)}
    rows = "".join(row(prefix + kebab(name), field) for name, field in plain.items())
    return f'<div class="keys" markdown>\n\n{HEAD}{rows}\n</div>'


def row(key: str, field: FieldInfo) -> str:
    """Return a key's row, with an anchor, and a link to the key's own section if there is one."""
    name = f"[`{key}`](#{key.replace('.', '')})" if f"### `{key}`\n" in text else f"`{key}`"
    cells = (
        f'<span id="key-{key.replace(".", "-")}">{name}</span>',
        f"`{shown(field.default)}`",
        limits(field),
        escaped(field.description or ""),
    )
    return f"| {' | '.join(cells)} |\n"


def is_section(field: FieldInfo) -> bool:
    """Return whether a field is a section and no key."""
    return isinstance(field.default, BaseModel)


def limits(field: FieldInfo) -> str:
    """Return a key's type with its bounds: numbers, a length, or names."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{name}`" for name in get_args(field.annotation))
    found = {name: getattr(entry, name) for entry in field.metadata for name in SIGNS if hasattr(entry, name)}
    if set(found) == {"ge", "le"}:
        parts = [f"{number(found['ge'])} to {number(found['le'])}"]
    else:
        parts = [f"{SIGNS[name]} {number(bound)}" for name, bound in found.items()]
    parts += [f"at most {entry.max_length:,} characters" for entry in field.metadata if isinstance(entry, MaxLen)]
    return ", ".join([KINDS[field.annotation], *parts])


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
