"""`knot-fed check-data`: describes a data file, and prints the configuration that reads it."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knot_fed.cli.options import Configs, RunConfig, given
from knot_fed.errors import ConfigError
from knot_fed.system.terminal import echo_line, make_console

if TYPE_CHECKING:
    from knot_fed.data.inspection.checked_file import CheckedFile

console = make_console()
PARTS = ("train", "val", "test")
OTHER_FILES = ", with the labelled public file's name for PUBLIC and that of the unlabelled texts for TRANSFER"


def check_data(
    file: Annotated[Path, typer.Argument(help="A csv, tsv or jsonl file (or one of these with .gz), or parquet.")],
    configs: Configs = None,
    run_config: RunConfig = None,
) -> None:
    """Describe a data file and print the configuration that reads it, without showing any text.

    Columns, delimiter, quoting and label names are detected, or set by CONFIG, e.g. data.label=stars.
    """
    from knot_fed.config import RunConfig as Run
    from knot_fed.config import flattened
    from knot_fed.config.overrides import read_override
    from knot_fed.data.inspection.checked_file import check_file
    from knot_fed.runs.log import printable
    from knot_fed.runs.narrow import narrow_table

    if not file.is_file():
        raise ConfigError(f"{file}: no such file; give a csv, tsv, jsonl or parquet file")
    known = {key: value for text in given(configs, run_config) for key, value in read_override(text).items()}
    Run.from_mapping(known)
    checked = check_file(file, known)
    for line in _about_rows(checked):
        echo_line(console, printable(line))
    console.print(narrow_table(["column", "role"], ["filled", "distinct"], rows=_columns(checked)))
    if checked.classes:
        parts = PARTS if checked.guess.columns.split else ()
        rows = [[name, counts.total(), *(counts[part] for part in parts)] for name, counts in checked.classes.items()]
        console.print(narrow_table(["label"], ["rows", *parts], rows=rows))
    for line in (*_about_texts(checked), *(f"note: {note}" for note in _notes(checked))):
        echo_line(console, printable(line))
    echo_line(console, "\n# paste into run.toml" + (OTHER_FILES if checked.classes else ""))
    echo_line(console, _toml(checked.settings))
    if checked.classes:
        echo_line(
            console, f"\n# or, on an owner's machine\nknot-fed client check run.toml --node-config {_node(checked)}"
        )
        read = checked.read(Run.from_mapping(flattened(checked.settings)))
        counts = ", ".join(f"{part} {len(getattr(read, part))}" for part in PARTS)
        echo_line(console, f"\n# with this configuration a study has {counts}")


def _about_rows(checked: "CheckedFile") -> Iterator[str]:
    from knot_fed.data.reading.files import file_dialect, file_kind

    table, name, cut = checked.guess.table, checked.path.name, ""
    if file_kind(name) in ("csv", "tsv"):
        dialect = file_dialect(name, checked.guess.columns.dialect)
        cut = f", delimiter {dialect.delimiter!r}, quoting {'double' if dialect.quoted else 'none'}"
    yield f"{name}: {len(table)} rows, {len(table.names)} columns{cut}"


def _notes(checked: "CheckedFile") -> list[str]:
    return [*checked.notes, *filter(None, [checked.name_note])]


def _columns(checked: "CheckedFile") -> Iterator[list[object]]:
    columns = checked.guess.columns
    roles = {
        columns.text: "text",
        columns.text_a: "first text",
        columns.text_b: "second text",
        columns.label: "label",
        columns.split: "split",
    }
    roles.pop("", None)
    for name, values in checked.guess.table.columns.items():
        filled = [str(value) for value in values if value is not None and str(value).strip()]
        yield [name, roles.get(name, "-"), len(filled), len(set(filled))]


def _about_texts(checked: "CheckedFile") -> Iterator[str]:
    survey = checked.survey
    if not checked.guess.columns.split:
        yield "splits: no column; a hash of each row assigns about 70 % to train, 10 % to val and 20 % to test"
    for what, (least, middle, most) in (("characters", survey.characters), ("words", survey.words)):
        yield f"{what} of a text: {least} to {most}, median {middle:g}"
    if survey.long:
        yield f"{survey.long} texts have more words than the model reads tokens (teacher.max-length)"
    yield f"duplicate texts within a split, ignoring case, spacing and punctuation: {survey.repeated}"
    if checked.guess.columns.split:
        pairs = ", ".join(f"{' and '.join(pair)} {count}" for pair, count in survey.shared.items())
        yield f"texts in two splits: {pairs}"
    if checked.classes:
        yield f"texts with more than one label: {survey.contradicting}"
    if survey.replaced:
        yield f"texts with a replacement character from an earlier conversion: {survey.replaced}"


def _node(checked: "CheckedFile") -> str:
    """Return the node configuration of a client that holds the file, quoted for a shell."""
    data = checked.settings["data"]
    own = {"name": data["clients"], "data": str(checked.path.resolve()), "state-dir": "/STATE"}
    own |= {key: value for key, value in data.items() if key not in ("root", "clients", "public", "transfer")}
    pairs = " ".join(_toml({key: value}).replace(" = ", "=", 1) for key, value in own.items())
    return shlex.quote(pairs)


def _toml(tables: Mapping[str, object]) -> str:
    """Format TOML without tabs, which a terminal shows as spaces."""
    import tomli_w

    return tomli_w.dumps(tables).rstrip().replace("\t", "\\t")
