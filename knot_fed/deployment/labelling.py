"""Label an owner's file with its personal model, or with any classifier in a folder."""

import csv
import io
import json
from pathlib import Path

from knot_fed.data.private import Columns, texts_of
from knot_fed.data.reading.files import file_dialect, file_kind, read_table
from knot_fed.errors import DataError, ModelError
from knot_fed.files import write_file
from knot_fed.models import SPEC_FILE, load_classifier
from knot_fed.training.personal.kept import PERSONAL
from knot_fed.training.teacher import predict_soft_labels

LABEL, PROBABILITY = "predicted label", "probability of {}"
KINDS = ("csv", "tsv", "jsonl")
DIGITS = 6


def label_file(folder: Path, file: Path, out: Path | None, *, columns: Columns) -> Path:
    """Label the texts of a file, and write its columns with the label and all probabilities; return the new file.

    Parameters
    ----------
    folder
        A client's state folder, or a folder with a classifier.
    file
        csv, tsv, jsonl (each also with .gz) or parquet.
    out
        csv, tsv or jsonl; None: beside `file`, as `NAME-labelled`. It must not exist.

    Raises
    ------
    ModelError
        If there is no personal model, or it reads pairs and these are single texts, or vice versa.
    DataError
        If the file cannot be read or has a column of the name of a new one, or `out` exists or is of another kind.
    """
    out = out or _beside(file)
    if file_kind(out.name) not in KINDS or out.suffix == ".gz":
        raise DataError(f"{out.name}: unknown kind of file; end its name in .{', .'.join(KINDS)}")
    if out.exists():
        raise DataError(f"{out}: already exists; give another file by --out")
    model = load_classifier(classifier_folder(folder))
    if not file.is_file():
        raise DataError(f"{file.name}: no such file; give a csv, tsv, jsonl or parquet file of texts")
    table = read_table(str(file), None, dialect=columns.dialect)
    soft_labels = predict_soft_labels(model, texts_of(table, columns, name=file.name, options=True))
    names = model.spec.labels
    added: dict[str, list[object]] = {LABEL: [names[row.argmax()] for row in soft_labels]}
    added |= {
        PROBABILITY.format(name): [round(float(share), DIGITS) for share in soft_labels[:, place]]
        for place, name in enumerate(names)
    }
    taken = [name for name in added if name in table.columns]
    if taken:
        raise DataError(f"{file.name}: has a column {taken[0]!r} already, which would be replaced; rename or drop it")
    write_file(out, _written(table.columns | added, out, columns).encode())
    return out


def classifier_folder(folder: Path) -> Path:
    """Return the folder of a classifier, or of the personal model in a state folder; raises ModelError if none is."""
    for found in (folder, folder / PERSONAL):
        if (found / SPEC_FILE).is_file():
            return found
    raise ModelError(
        f"{folder}: no personal model; give the state-dir of a client that took part in a run with personal.consensus,"
        f" or its folder {PERSONAL}"
    )


def _beside(file: Path) -> Path:
    kind = file_kind(file.name)
    stem = file.name.removesuffix(".gz").rpartition(".")[0] or file.name
    return file.with_name(f"{stem}-labelled.{kind if kind in KINDS else 'csv'}")


def _written(columns: dict[str, list[object]], out: Path, read: Columns) -> str:
    rows = zip(*columns.values(), strict=True)
    if out.suffix == ".jsonl":
        return "".join(
            json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, default=str) + "\n" for row in rows
        )
    text = io.StringIO()
    writer = csv.writer(text, delimiter=file_dialect(out.name, read.dialect).delimiter, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
