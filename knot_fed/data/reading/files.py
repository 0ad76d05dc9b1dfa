"""Reading of data files and hub data sets, column by column; error messages count rows and quote no text."""

import gzip
import json
import zlib
from array import array
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from knot_fed.data import reviews
from knot_fed.data.reading.characters import decoded
from knot_fed.data.reading.separated import Dialect, read_separated
from knot_fed.data.reading.table import Table, check_columns
from knot_fed.data.reviews import check_domain
from knot_fed.errors import DataError
from knot_fed.files import file_digest

SUFFIXES = (".jsonl.gz", ".jsonl", ".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
HUB, BUILTIN = "hub:", "builtin:"
HUB_SPLITS = {"train": "train", "validation": "val", "test": "test"}


@contextmanager
def error_role(role: str) -> Iterator[None]:
    """Set the role of the file, such as `the private file`, in data errors that a peer sees; also a decorator."""
    try:
        yield
    except DataError as error:
        error.role = role
        raise


def data_path(root: str, name: str) -> str:
    """Find a file named in the configuration.

    Parameters
    ----------
    root
        Folder of the files, `builtin` for the synthetic reviews, or `hub` for data sets of the hub.
    name
        A name below `root` without a suffix, a file with a known suffix, or `hub:<name>`.

    Raises
    ------
    DataError
        If no file or several files match, or there is no such built-in domain.

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
    found = [f"{name}{suffix}" for suffix in suffixes if (Path(root) / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        raise DataError(
            f"{name}: {' and '.join(found)} are all in data.root; move the others away, or write the suffix"
        )
    if found:
        return str(Path(root) / found[0])
    wanted = f"{name}{{{','.join(suffixes)}}}" if any(suffixes) else name
    raise DataError(f"{name}: no file {wanted} in data.root; check data.root and the file's name")


def content_digest(path: str) -> str:
    """Return the SHA-256 of a data file, or of the code that generates built-in reviews; empty for the hub's data sets.

    The content of a data set of the hub is unknown before it is loaded.
    """
    if path.startswith(HUB):
        return ""
    return file_digest(Path(reviews.__file__ if path.startswith(BUILTIN) else path))


def is_local(path: str) -> bool:
    """Return whether a path from `data_path` can be read without the hub."""
    return not path.startswith(HUB)


def short_name(path: str) -> str:
    """Return a file's name in messages, without its folders."""
    return path if path.startswith((HUB, BUILTIN)) else Path(path).name


def file_kind(path: str) -> str:
    """Return the kind of a file, such as csv, also if it is compressed.

    Examples
    --------
    >>> file_kind("mine.csv.gz")
    'csv'
    """
    return path.removesuffix(".gz").rpartition(".")[2]


def file_dialect(path: str, dialect: Dialect) -> Dialect:
    """Return the dialect of a csv or tsv file, with the default delimiter of its kind if none is set."""
    return Dialect(dialect.delimiter or ("\t" if file_kind(path) == "tsv" else ","), dialect.quoting)


def read_table(path: str, wanted: Collection[str] | None, *, dialect: Dialect, split: str = "") -> Table:
    """Read the wanted columns that a file has.

    Parameters
    ----------
    path
        csv, tsv, jsonl (each also with .gz), parquet, or `hub:<name>[:<configuration>]`.
    wanted
        Column names; None: all columns.
    dialect
        Delimiter and quoting of csv and tsv files.
    split
        Name of an added column with the splits of a hub data set; empty: none is added.

    Raises
    ------
    DataError
        If the file is missing, malformed, empty, not UTF-8, or of an unknown kind.
    """
    if path.startswith(HUB):
        return _read_hub(path, wanted, split=split)
    name = short_name(path)
    if not Path(path).is_file():
        raise DataError(
            f"{name}: no such file; check data.root, or data in the node configuration", refusal="no such file"
        )
    try:
        table = _read_file(Path(path), wanted, dialect)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno and error.strerror:
            raise DataError(
                f"{name}: cannot be opened ({error.strerror.lower()}); let the user that runs this read it",
                refusal="cannot be opened",
            ) from None
        raise DataError(
            f"{name}: cannot be read as {''.join(Path(path).suffixes)}; write the file again",
            refusal="cannot be read as a file of its kind",
        ) from None
    if not len(table):
        raise DataError(f"{name}: 0 rows, expected texts; give a file with rows", refusal="no rows")
    return table


def _read_file(path: Path, wanted: Collection[str] | None, dialect: Dialect) -> Table:
    kind = file_kind(path.name)
    if not path.name.endswith(SUFFIXES):
        remedy = "end its name, in small letters, in" if path.name.lower().endswith(SUFFIXES) else "use"
        raise DataError(
            f"{path.name}: unknown kind of file; {remedy} one of {', '.join(SUFFIXES)}", refusal="unknown kind"
        )
    if kind == "parquet":
        return _read_parquet(path, wanted)
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        content = decoded(file.read(), name=path.name)
    if kind == "jsonl":
        return _read_json_lines(content, wanted, name=path.name)
    return read_separated(content, wanted, name=path.name, dialect=file_dialect(path.name, dialect))


def _read_json_lines(content: str, wanted: Collection[str] | None, *, name: str) -> Table:
    """Read the wanted keys (None: all) of one JSON object per line; a missing key is None."""
    numbers, broken, columns, names = array("q"), list[int](), dict[str, list[object]](), dict[str, None]()
    for number, line in enumerate(_lines(content), start=1):
        if not line.strip():
            continue
        row = _object(line)
        if row is None:
            broken.append(number)
            continue
        for key in row:
            if key not in names:
                names[key] = None
                if wanted is None or key in wanted:
                    columns[key] = [None] * len(numbers)
        numbers.append(number)
        for key, column in columns.items():
            column.append(row.get(key))
    if broken:
        raise DataError(
            f"{name}: line {broken[0]}: {len(broken)} of {len(numbers) + len(broken)} rows are not JSON objects; write"
            " one object a line, each key once",
            refusal="some rows are not JSON objects",
        )
    blank = content.rstrip().count("\n") + 1 - len(numbers) if numbers else 0
    layout = f"{len(numbers)} rows and {blank} blank lines" if blank else ""
    return Table(columns, tuple(names), numbers, layout=layout)


def _lines(content: str) -> Iterator[str]:
    """Yield the lines as `content.split` would return them."""
    start = 0
    while (end := content.find("\n", start)) >= 0:
        yield content[start:end]
        start = end + 1
    yield content[start:]


def _object(line: str) -> dict[str, object] | None:
    try:
        row = json.loads(line, object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key appears twice")
    return made


def _read_parquet(path: Path, wanted: Collection[str] | None) -> Table:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    check_columns(names, names if wanted is None else wanted, name=path.name)
    loaded = file.read() if wanted is None else file.read(columns=[name for name in names if name in wanted])
    columns = {name: loaded[name].to_pylist() for name in names if name in loaded.column_names}
    return Table(columns, tuple(names), range(1, loaded.num_rows + 1), unit="row")


def _read_hub(path: str, wanted: Collection[str] | None, *, split: str) -> Table:
    import datasets

    name, _, configuration = path.removeprefix(HUB).partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None)
    except Exception as error:
        raise DataError(
            f"{path}: cannot be loaded from the hub ({type(error).__name__}); check name and network"
        ) from None
    parts = {HUB_SPLITS[part]: loaded[part] for part in HUB_SPLITS if part in loaded}
    if not parts:
        raise DataError(f"{path}: none of the splits {', '.join(HUB_SPLITS)}; choose another data set")
    names = next(iter(parts.values())).column_names
    columns: dict[str, list[object]] = {
        column: [value for rows in parts.values() for value in rows[column]]
        for column in names
        if wanted is None or column in wanted
    }
    if split and split not in columns:
        columns[split] = [part for part, rows in parts.items() for _ in range(len(rows))]
    return Table(columns, tuple(names), range(1, sum(map(len, parts.values())) + 1), unit="row")
