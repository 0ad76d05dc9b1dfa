"""Tables on disk or on the hub, read column by column; messages count rows and quote neither texts nor headers."""

import csv
import gzip
import json
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from knot_fed.data.reviews import check_domain
from knot_fed.errors import DataError

SUFFIXES = (".jsonl.gz", ".jsonl", ".csv", ".tsv", ".parquet")
HUB, BUILTIN = "hub:", "builtin:"
HUB_SPLITS = {"train": "train", "validation": "val", "test": "test"}


@contextmanager
def errors_about(role: str) -> Iterator[None]:
    """Let errors call a file by its role, such as `the private file`, in what a peer is told; also a decorator."""
    try:
        yield
    except DataError as error:
        error.role = role
        raise


def data_path(root: str, name: str) -> str:
    """Find the file that a configuration names.

    Parameters
    ----------
    root
        Folder of the files, `builtin` for the synthetic reviews, or `hub` for data sets of the hub.
    name
        A name without suffix below `root`, a file with one of the known suffixes, or `hub:<name>`.

    Raises
    ------
    DataError
        If no such file is there, or the synthetic reviews have no such domain; the message names what was looked for.

    Examples
    --------
    >>> data_path("builtin", "phones")
    'builtin:phones'
    """
    if name.startswith(HUB):
        return name
    if root == "builtin":
        check_domain(name)
    if root in ("builtin", "hub"):
        return f"{root}:{name}"
    suffixes = ("",) if name.endswith(SUFFIXES) else SUFFIXES
    for suffix in suffixes:
        if (Path(root) / f"{name}{suffix}").is_file():
            return str(Path(root) / f"{name}{suffix}")
    wanted = f"{name}{{{','.join(suffixes)}}}" if any(suffixes) else name
    raise DataError(f"{name}: no file {wanted} in data.root; check data.root and the file's name")


def is_local(path: str) -> bool:
    """Tell whether a path that `data_path` found can be read without the hub."""
    return not path.startswith(HUB)


def short_name(path: str) -> str:
    """Return what messages call a file: its name, without the folders above it."""
    return path if path.startswith((HUB, BUILTIN)) else Path(path).name


def read_columns(path: str, wanted: Collection[str], *, split: str = "") -> dict[str, list[object]]:
    """Read those of the wanted columns that the file has; others are not kept.

    Parameters
    ----------
    path
        csv, tsv, jsonl, jsonl.gz, parquet, or `hub:<name>[:<configuration>]`.
    wanted
        Column names.
    split
        Column name under which the splits of a hub data set are returned; empty: not at all.

    Raises
    ------
    DataError
        If the file is missing, of another kind, broken, not UTF-8, or has no rows.
    """
    if path.startswith(HUB):
        return _read_hub(path, wanted, split=split)
    name = short_name(path)
    if not Path(path).is_file():
        raise DataError(
            f"{name}: no such file; check data.root, or data in the node configuration", refusal="no such file"
        )
    try:
        columns = _read_file(Path(path), wanted)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: not UTF-8 at byte {error.start}; save the file as UTF-8", refusal="not UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error, csv.Error, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno and error.strerror:
            raise DataError(
                f"{name}: cannot be opened ({error.strerror.lower()}); let the user that runs this read it",
                refusal="cannot be opened",
            ) from None
        raise DataError(
            f"{name}: cannot be read as {''.join(Path(path).suffixes)}; write the file again",
            refusal="cannot be read as a file of its kind",
        ) from None
    if columns and not any(columns.values()):
        raise DataError(f"{name}: 0 rows, expected labelled texts; give a file with rows", refusal="no rows")
    return columns


def _read_file(path: Path, wanted: Collection[str]) -> dict[str, list[object]]:
    if path.name.endswith(".parquet"):
        names = [name for name in pq.read_schema(path).names if name in wanted]
        return {
            name: column.to_pylist() for name, column in zip(names, pq.read_table(path, columns=names), strict=True)
        }
    if path.stat().st_size == 0:
        raise DataError(f"{path.name}: 0 rows, the file is empty; give a file with rows", refusal="no rows")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _read_json_lines(path, wanted)
    if path.name.endswith((".csv", ".tsv")):
        return _read_separated(path, wanted)
    raise DataError(f"{path.name}: unknown kind of file; use one of {', '.join(SUFFIXES)}", refusal="unknown kind")


def _read_json_lines(path: Path, wanted: Collection[str]) -> dict[str, list[object]]:
    rows, broken = [], 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read().decode("utf-8")
    for line in content.split("\n"):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            rows.append(row if isinstance(row, dict) else {})
            broken += not isinstance(row, dict)
    if broken:
        raise DataError(
            f"{path.name}: {broken} of {len(rows)} rows are not JSON objects; write one object a line",
            refusal="some rows are not JSON objects",
        )
    present = [name for name in wanted if any(name in row for row in rows)]
    return {name: [row.get(name) for row in rows] for name in present}


def _read_separated(path: Path, wanted: Collection[str]) -> dict[str, list[object]]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        records = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        header = next(records, [])
        rows = [record for record in records if record]
    uneven = sum(len(row) != len(header) for row in rows)
    if uneven:
        raise DataError(
            f"{path.name}: {uneven} of {len(rows)} rows do not have the header's {len(header)} fields; quote the texts",
            refusal="some rows have other fields than the header",
        )
    return {name: [row[place] for row in rows] for place, name in enumerate(header) if name in wanted}


def _read_hub(path: str, wanted: Collection[str], *, split: str) -> dict[str, list[object]]:
    import datasets

    name, _, configuration = path.removeprefix(HUB).partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None)
    except Exception as error:
        raise DataError(
            f"{path}: cannot be loaded from the hub ({type(error).__name__}); check name and network"
        ) from None
    parts = [(HUB_SPLITS[part], loaded[part]) for part in HUB_SPLITS if part in loaded]
    if not parts:
        raise DataError(f"{path}: none of the splits {', '.join(HUB_SPLITS)}; choose another data set")
    names = [column for column in wanted if column in parts[0][1].column_names]
    columns: dict[str, list[object]] = {column: list(_chain(parts, column)) for column in names}
    if split and split not in columns:
        columns[split] = [part for part, rows in parts for _ in range(len(rows))]
    return columns


def _chain(parts: list[tuple[str, "object"]], column: str) -> Iterator[object]:
    for _, rows in parts:
        yield from rows[column]  # type: ignore[index]
