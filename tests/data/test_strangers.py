"""Users' files: read with the configuration that check-data prints, or refused in one sentence."""

import csv
import gzip
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from contextlib import suppress
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.config import NodeConfig, RunConfig, flattened
from knot_fed.config.overrides import read_override
from knot_fed.data.private import Columns, read_labelled_texts, seed_key
from knot_fed.data.reading.files import read_table
from knot_fed.data.reading.label_values import read_labels
from knot_fed.data.reading.separated import Dialect, read_separated
from knot_fed.data.reading.table import Table
from knot_fed.data.transfer_set import read_transfer_set
from knot_fed.errors import DataError
from knot_fed.labels import LabelSpace
from tests.conftest import ROOT

CASES = ROOT.parent / "shared" / "cases"
WORDS = ("bad", "fair", "good")
PASTE = re.compile(r"# paste into run\.toml[^\n]*\n(.*?)(?:\n# or, on|\Z)", re.DOTALL)


def made(labels, count=60, text="text {}"):
    return [(text.format(row), labels[row % len(labels)]) for row in range(count)]


def separated(rows, header=("text", "label"), **dialect):
    written = io.StringIO(newline="")
    csv.writer(written, **dialect).writerows([header, *rows])
    return written.getvalue().encode()


def plain(rows, header=("text", "label"), delimiter=",", end="\n"):
    """Return rows without any quoting, unlike those of a csv writer."""
    return (end.join(delimiter.join(map(str, row)) for row in [header, *rows]) + end).encode("utf-8", "surrogatepass")


def json_lines(rows, end="\n"):
    return end.join(json.dumps({"text": text, "label": label}) for text, label in rows).encode()


def parquet(**columns):
    written = io.BytesIO()
    pq.write_table(pa.table(columns), written)
    return written.getvalue()


def columns_of(rows):
    return {"text": [text for text, _ in rows], "label": [label for _, label in rows]}


def check(path, *settings):
    return CliRunner().invoke(app, ["check-data", str(path), *settings])


def pasted(said):
    """Parse the printed configuration as if it were pasted."""
    tables = tomllib.loads(PASTE.search(said)[1])
    return RunConfig.from_mapping(flattened(tables))


def read_back(path, said):
    """Return every row as read with the printed configuration, for a run and for an owner's node."""
    config, labels = pasted(said), pasted(said).label_space()
    node = shlex.split(next(line for line in said.splitlines() if line.startswith("knot-fed client check")))[-1]
    settings = NodeConfig.from_mapping(read_override(node, option="--node-config", schema=NodeConfig))
    assert settings.data == str(path)
    columns = Columns.from_settings(settings, Columns())
    assert columns == Columns.from_settings(config.data)
    read = read_labelled_texts(path, columns=columns, labels=labels, key=seed_key(1))
    parts = (read.train, read.val, read.test)
    return [(text, labels.names[label]) for part in parts for text, label in zip(part.texts, part.labels, strict=True)]


def named(rows, name=str):
    return Counter((text, name(label)) for text, label in rows)


STARS, HALVES = made((1, 2, 3, 4, 5)), made((0.5, 1.0, 1.5, 2.0))
QUOTED = made(WORDS, text='text {}, "so" they say')
LONG = made(WORDS, count=12, text="{} " + "long " * 10_000)
ARABIC = made(("جيد", "سيئ"), text="نص رقم {}، كما هو")
LINES = made(WORDS, text="first line of {}\nsecond, with a comma")
READ = {
    "Excel's csv": (
        "reviews.csv",
        b"\xef\xbb\xbf" + separated(STARS, ("Review", "Stars"), delimiter=";"),
        (),
        named(STARS),
        "delimiter ';', quoting double",
    ),
    "floats of pandas": ("a.csv", separated(made((1.0, 2.0, 5.0))), (), named(made((1, 2, 5))), "│ 5     │   20"),
    "stars 1 to 5": ("a.csv", separated(STARS), (), named(STARS), "│ 5     │   12"),
    "words": (
        "a.csv",
        separated(made(WORDS)),
        (),
        named(made(WORDS)),
        "note: labels are in alphabetical order",
    ),
    "quotes": ("a.csv", separated(QUOTED), (), named(QUOTED), "quoting double"),
    "20 classes": ("a.csv", separated(made(range(20))), (), named(made(range(20))), "19    │    3"),
    "codes": (
        "a.csv",
        separated(made((7, 11))),
        (),
        named(made((7, 11))),
        "omit these if the numbers are only codes",
    ),
    "two classes": ("a.csv", separated(made(("no", "yes"))), (), named(made(("no", "yes"))), "no    │   30"),
    "Arabic": ("a.csv", separated(ARABIC), (), named(ARABIC), "characters of a text: 16 to 17"),
    "50,000 characters": ("a.csv", separated(LONG), (), named(LONG), "12 texts have more words than the model reads"),
    "parquet categories": (
        "a.parquet",
        parquet(
            text=columns_of(made(WORDS))["text"], label=pa.array(columns_of(made(WORDS))["label"]).dictionary_encode()
        ),
        (),
        named(made(WORDS)),
        "a.parquet: 60 rows, 2 columns\n",
    ),
    "csv.gz": ("a.csv.gz", gzip.compress(separated(STARS)), (), named(STARS), "delimiter ','"),
    # tries of our own
    "tsv.gz without quoting": (
        "a.tsv.gz",
        gzip.compress(plain(STARS, delimiter="\t")),
        (),
        named(STARS),
        "quoting none",
    ),
    "tsv by a writer that quotes": (
        "a.tsv",
        separated(QUOTED, delimiter="\t"),
        (),
        named(QUOTED),
        "delimiter '\\t', quoting double",
    ),
    "tsv with marks around texts": (
        "a.tsv",
        separated(STARS, delimiter="\t", quoting=csv.QUOTE_ALL),
        (),
        named(STARS),
        'quoting = "double"',
    ),
    "labels in two cases": (
        "a.csv",
        separated(made(("Good", "good", "bad"))),
        (),
        named(made(("Good", "good", "bad"))),
        "in upper and lower case only",
    ),
    "a missing label among words": (
        "a.csv",
        separated(made(("bad", "good", "nan"))),
        (),
        named(made(("bad", "good", "nan"))),
        "nan may stand for a missing label; drop these rows unless it is a class",
    ),
    "tabs in a csv": ("a.csv", plain(STARS, delimiter="\t"), (), named(STARS), "delimiter '\\t'"),
    "bars": ("a.csv", plain(STARS, delimiter="|"), (), named(STARS), "delimiter '|'"),
    "all fields quoted": ("a.csv", separated(STARS, quoting=csv.QUOTE_ALL), (), named(STARS), "quoting double"),
    "old Mac's line ends": ("a.csv", plain(STARS, end="\r"), (), named(STARS), "60 rows"),
    "lines within texts": (
        "a.csv",
        separated(LINES),
        (),
        named(LINES),
        "60 rows on 121 lines: 1 of the header, 0 blank, 60",
    ),
    "blank lines": (
        "a.csv",
        plain(STARS, end="\n\n"),
        (),
        named(STARS),
        "60 rows on 122 lines: 1 of the header, 61 blank, 0",
    ),
    "the index of pandas": (
        "a.csv",
        separated([(row, *pair) for row, pair in enumerate(STARS)], ("", "text", "label")),
        (),
        named(STARS),
        "3 columns",
    ),
    "half stars": ("a.csv", separated(HALVES), (), named(HALVES, "{:g}".format), 'coordinates = "0.5; 1; 1.5; 2"'),
    "minus one to one": ("a.csv", separated(made((-1, 0, 1))), (), named(made((-1, 0, 1))), 'names = "-1, 0, 1"'),
    "booleans": (
        "a.jsonl",
        json_lines(made((True, False))),
        (),
        named(made(("true", "false"))),
        'names = "false, true"',
    ),
    "booleans of pandas": ("a.csv", separated(made((True, False))), (), named(made((True, False))), "True"),
    "a mark in jsonl, and CRLF": ("a.jsonl", b"\xef\xbb\xbf" + json_lines(STARS, "\r\n"), (), named(STARS), "60 rows"),
    "a line separator in a text": (
        "a.jsonl",
        "\n".join(
            json.dumps({"text": f"a\u2028{row}", "label": row % 2}, ensure_ascii=False) for row in range(60)
        ).encode(),
        (),
        named(made((0, 1), text="a\u2028{}")),
        "60 rows",
    ),
    "gzip of two members": (
        "a.jsonl.gz",
        gzip.compress(json_lines(STARS) + b"\n") + gzip.compress(b"\n"),
        (),
        named(STARS),
        "60 rows",
    ),
    "dots in names of parquet": (
        "a.parquet",
        parquet(**{"reviews.text": columns_of(STARS)["text"], "reviews.rating": columns_of(STARS)["label"]}),
        ("data.label=reviews.rating",),
        named(STARS),
        "reviews.text",
    ),
    "some of a preset's names": (
        "a.csv",
        separated(made(("negative", "positive", "neutral"))),
        (),
        named(made(("negative", "positive", "neutral"))),
        'names = "negative, neutral, positive"\ncoordinates = "-1; 0; 1"',
    ),
    "positions, as asked": (
        "a.csv",
        separated(made(range(5))),
        ("task=sentiment",),
        named(made(LabelSpace.preset("sentiment").names)),
        "numbers by position, 0 for 'very negative'",
    ),
    "all of a preset's names": (
        "a.csv",
        separated(made(LabelSpace.preset("nli").names)),
        (),
        named(made(LabelSpace.preset("nli").names)),
        'task = "nli"\n\n[data]',
    ),
    "splits by other names": (
        "a.csv",
        separated(
            [(*pair, ("Train", "dev", "TEST")[row % 3]) for row, pair in enumerate(made((1, 2), 60))],
            ("text", "label", "Fold"),
        ),
        (),
        named(made((1, 2))),
        "│ Fold   │ split │",
    ),
    "a mark that opens a text": (
        "a.csv",
        plain([('"so it ends', 1), *STARS]),
        (),
        named([('"so it ends', 1), *STARS]),
        'quoting = "none"',
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_strangers_file_is_read_whole_by_the_configuration_that_is_printed(tmp_path, name):
    file, content, settings, rows, said = READ[name]
    (tmp_path / file).write_bytes(content)
    result = check(tmp_path / file, *settings)
    assert result.exit_code == 0, result.output
    assert said in result.stdout
    assert Counter(read_back(tmp_path / file, result.stdout)) == rows


STAY = made(WORDS)
REFUSED = {
    "one class": (
        "a.csv",
        separated(made(("good",))),
        "1 distinct label; give the names that all owners of the run share",
    ),
    "UTF-16": (
        "a.csv",
        plain(STAY).decode().encode("utf-16"),
        "not UTF-8 but UTF-16; save it as UTF-8, such as by iconv",
    ),
    "UTF-16 without a mark": ("a.jsonl", json_lines(STAY).decode().encode("utf-16-be"), "not UTF-8 but UTF-16"),
    "latin-1": (
        "a.csv",
        plain([("caf\xe9", "good")]).decode().encode("latin-1"),
        "not UTF-8 at byte 14 (line 2); save",
    ),
    "a workbook": (
        "a.csv",
        b"PK\x03\x04\x14\x00\xff\xfe",
        "(is a zip file or a workbook such as .xlsx); save it as CSV UTF-8",
    ),
    "gzip by another name": ("a.csv", gzip.compress(plain(STAY)), "(is compressed); end its name with .gz"),
    "gzip that is cut": ("a.csv.gz", gzip.compress(plain(STAY))[:-9], "cannot be read as .csv.gz"),
    "a plain file called gzip": ("a.csv.gz", plain(STAY), "cannot be read as .csv.gz"),
    "half an emoji": (
        "a.jsonl",
        json_lines([*STAY, ("cut \ud83d", "good")]),
        "line 61: 1 of 61 texts contain a lone surrogate",
    ),
    "a zero byte": ("a.csv", plain([("a\0b", "good"), *STAY]), "line 2: 1 of 61 texts contain a lone surrogate"),
    "half an emoji in parquet": (
        "a.parquet",
        parquet(text=["a\0", "b"], label=["x", "y"]),
        "row 1: 1 of 2 texts contain",
    ),
    "a column twice": ("a.csv", plain([(1, 2, 3)], ("text", "text", "label")), "column 'text' appears more than once"),
    "a key twice": ("a.jsonl", b'{"text": "a", "text": "b", "label": 1}', "line 1: 1 of 1 rows are not JSON objects"),
    "a JSON array": (
        "a.jsonl",
        json.dumps([{"text": "a"}], indent=1).encode(),
        "line 1: 5 of 5 rows are not JSON objects",
    ),
    "deep JSON": ("a.jsonl", b"[" * 100_000, "line 1: 1 of 1 rows are not JSON objects"),
    "an endless number": (
        "a.jsonl",
        b'{"text": "a", "label": ' + b"1" * 5000 + b"}",
        "1 of 1 rows are not JSON objects",
    ),
    "no label in some rows": (
        "a.parquet",
        parquet(text=["a", "b", "c", "d"], label=["x", None, "y", "x"]),
        "1 of 4 rows are",
    ),
    "a delimiter too many": (
        "a.csv",
        plain([*STAY, ("a, b", "good")]),
        "line 62: 1 of 61 rows do not have the header's 2 fields",
    ),
    "Excel's first line": (
        "a.csv",
        b"sep=;\n" + plain(STAY, delimiter=";"),
        "line 1 is Excel's sep= line, not a header; delete it",
    ),
    "each text its label": ("a.csv", separated([(f"t {row}", f"l {row}") for row in range(20)]), "are not classes"),
    "a label with a comma": ("a.csv", separated(made(("arts, crafts", "food"))), "labels with a comma, which no label"),
    "a decimal comma": (
        "a.csv",
        separated(made(("1,0", "2,0"))),
        "write them in the file without one, and numbers with a point",
    ),
    "a comment before the header": (
        "a.csv",
        b"# by hand\n" + plain(STAY),
        "line 2: 61 of 61 rows do not have the header's",
    ),
    "no header line": (
        "a.csv",
        plain(STAY).partition(b"\n")[2],
        "column 'bad' has its own name as a value; give the file",
    ),
    "two files joined": (
        "a.csv",
        plain(STAY) + plain(STAY),
        "column 'label' has its own name as a value; give the file",
    ),
    "1200 labels": ("a.csv", separated(made(range(1200), 4800)), "label space has 1200 label(s), expected 2 to 1000"),
    "bytes in parquet": (
        "a.parquet",
        parquet(text=[b"a", b"b"], label=["x", "y"]),
        "2 of 2 rows have no text; write strings",
    ),
    "a mark never closed among quoted fields": (
        "a.csv",
        separated(STAY, quoting=csv.QUOTE_ALL) + b'"never closed,good\n',
        "line 62: a quotation mark opens a field that is never closed",
    ),
    "backslashes before marks among quoted fields": (
        "a.csv",
        separated([*STAY, ("so they say", "good")], quoting=csv.QUOTE_ALL).replace(
            b"so they say", b'so \\"they\\" say'
        ),
        "line 62: a quoted field continues after its closing mark",
    ),
    "labels of numbers and words": (
        "a.csv",
        separated(made((1, 2, "three", "NaN"))),
        "labels are partly numbers (1, 2) and partly words (NaN, three); correct them",
    ),
    "a folder": (".", b"", "no such file; give a csv, tsv, jsonl or parquet file"),
    "another kind": ("a.docx", b"text", "a.docx: unknown kind of file; use one of .jsonl.gz"),
    "a suffix in capitals": (
        "A.CSV",
        plain(STAY),
        "A.CSV: unknown kind of file; end its name, in small letters, in one of",
    ),
    "header and no rows": ("a.csv", b"text,label\n", "0 rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_in_one_sentence(tmp_path, name):
    file, content, sentence = REFUSED[name]
    if content:
        (tmp_path / file).write_bytes(content)
    result = check(tmp_path / file)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1
    assert sentence in result.stderr


@pytest.mark.parametrize(
    ("values", "names", "indices"),
    [
        ([1.0, 5.0, "3.0"], "1,2,3,4,5", [0, 4, 2]),
        ([0.0, "1", 2], "bad,fair,good", [0, 1, 2]),
        (["1", "1.0", "1e0"], "1,2", [0, 0, 0]),
        ([1, "1.0"], "1,1.0", [0, 1]),
        (["good ", " bad"], "bad,fair,good", [2, 0]),
        ([True, False], "false,true", [1, 0]),
    ],
)
def test_labels_are_read_by_value(values, names, indices):
    assert read_values(values, names).tolist() == indices


@pytest.mark.parametrize(
    ("values", "names", "sentence"),
    [
        ([0, 1, 2], "1,2,3", "1 of 3 rows are numbers from 0 to 2, while the others are label names .line 1."),
        (["good", 0], "bad,fair,good", "1 of 2 rows are numbers from 0 to 2, while the others"),
        ([0, 1, 0.5], "bad,good", "1 of 3 rows are neither"),
        ([1, 2, 3], "bad,fair,good", "1 of 3 rows are neither a label name nor 0..2 .line 3."),
        (["1_0", "\uff11"], "bad,good,10,1", "2 of 2 rows are neither"),
        ([None, "none"], "None,none", "1 of 2 rows are neither"),
        ([float("nan"), "nan"], "nan,none", "1 of 2 rows are neither"),
        ([True, False], "bad,good", "set labels.names = 'false, true'"),
    ],
)
def test_labels_that_could_be_read_in_two_ways_or_in_none_are_refused(values, names, sentence):
    with pytest.raises(DataError, match=sentence):
        read_values(values, names)


def read_values(values, names):
    labels = LabelSpace.from_text(names, "")
    table = Table({"label": list(values)}, ("label",), range(1, len(values) + 1))
    return read_labels(table, "label", labels, name="a.csv")[0]


def swallowing(first, last, closing, label="3"):
    """Return rows in which one opens a quotation mark that another one closes."""
    rows = [[f"text {row}", str(row % 5 + 1)] for row in range(60)]
    rows[first][0] = '"' + rows[first][0]
    rows[last] = [closing, label]
    return plain(rows)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (swallowing(12, 40, "text 40"), "line 14: a quotation mark opens a field that is never closed"),
        (
            swallowing(12, 30, 'they "say" so'),
            "line 14: a quoted field continues after its closing mark, in line 32",
        ),
        (
            swallowing(12, 30, 'a screen of 5"'),
            "line 14: a quoted field extends to line 32 and contains what look",
        ),
        (swallowing(12, 13, 'a screen of 5"'), "line 14: a quoted field extends to line 15"),
        (plain([('"so" it began', 1)]), "line 2: a quoted field continues"),
        (plain([('"so \\"they\\" say"', 1)]), "line 2: a quoted field continues"),
    ],
)
def test_a_mark_that_does_not_match_is_refused_with_its_line_and_swallows_no_row(tmp_path, content, sentence):
    (tmp_path / "a.csv").write_bytes(content)
    labels = LabelSpace.from_text("1,2,3,4,5", "")
    with pytest.raises(DataError, match=sentence):
        read_labelled_texts(tmp_path / "a.csv", columns=Columns(), labels=labels, key=seed_key(1))
    columns = Columns(quoting="none")
    read = (
        read_labelled_texts(tmp_path / "a.csv", columns=columns, labels=labels, key=seed_key(1))
        if b"60" in content
        else None
    )
    assert read is None or len(read.train) + len(read.val) + len(read.test) == 60


def test_missing_columns_name_those_that_are_there_and_no_long_ones(tmp_path):
    (tmp_path / "a.csv").write_bytes(plain(STAY, (" text", "grade")))
    with pytest.raises(
        DataError, match="no column 'label' for the label; it has ' text', 'grade'; check the header"
    ) as failure:
        read_labelled_texts(
            tmp_path / "a.csv", columns=Columns(), labels=LabelSpace.from_text("a,b", ""), key=seed_key(1)
        )
    assert "grade" not in failure.value.refusal
    (tmp_path / "b.csv").write_bytes(b"the first text of a file that has no header line,1\nanother,2\n")
    with pytest.raises(DataError, match="it has a long one, '1'") as failure:
        read_transfer_set(tmp_path / "b.csv", columns=Columns())
    assert "first text" not in str(failure.value)


def test_one_class_at_an_owner_is_counted_among_the_names_that_all_owners_share(tmp_path):
    (tmp_path / "a.csv").write_bytes(separated(made(("good",))))
    said = check(tmp_path / "a.csv", 'labels.names="bad, good"').stdout
    assert re.search(r"bad +│ +0", said)
    assert re.search(r"good +│ +60", said)
    table = read_table(str(tmp_path / "a.csv"), None, dialect=Dialect())
    assert read_labels(table, "label", LabelSpace.from_text("bad, good", ""), name="a.csv")[0].tolist() == [1] * 60


def test_texts_without_labels_are_told_as_a_transfer_set(tmp_path):
    (tmp_path / "t.csv").write_bytes(separated([(f"one, {row}",) for row in range(30)], ("text",)))
    result = check(tmp_path / "t.csv")
    assert result.exit_code == 0, result.output
    assert pasted(result.stdout).data.transfer == "t"
    assert len(read_transfer_set(tmp_path / "t.csv", columns=Columns())) == 30


def test_repeated_texts_are_counted_within_and_between_splits(tmp_path):
    rows = [("Good!", "yes", "train"), ("good", "no", "train"), ("GOOD", "yes", "test"), ("bad", "no", "train")]
    (tmp_path / "a.csv").write_bytes(separated([*rows, ("so so", "no", "val")], ("text", "label", "split")))
    said = check(tmp_path / "a.csv").stdout
    assert "spacing and punctuation: 1\n" in said
    assert "texts in two splits: train and val 0, train and test 1, val and test 0\n" in said
    assert "texts with more than one label: 1\n" in said


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b c", "d, e"]), st.integers(1, 3)), min_size=12, max_size=30),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=3),
    st.booleans(),
)
def test_stray_marks_are_refused_or_lose_no_row(rows, places, writer):
    content = (separated(rows) if writer else plain([(text.replace(",", ";"), label) for text, label in rows])).decode()
    for place in places:
        spot = len("text,label\n") + place % (len(content) - len("text,label\n"))
        content = content[:spot] + '"' + content[spot:]
    labels = LabelSpace.from_text("1,2,3", "")
    with suppress(DataError):
        table = read_separated(content, None, name="a.csv", dialect=Dialect(","))
        assert len(read_labels(table, "label", labels, name="a.csv")[0]) == len(rows)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small data of the shared cases."""
    if not CASES.is_dir():
        pytest.skip("no ../shared/cases beside the repository")
    folder = tmp_path_factory.mktemp("cases")
    call(CASES / "small-data" / "make.py", folder / "small", "60")
    return folder / "small"


def call(script, *arguments):
    subprocess.run([sys.executable, str(script), *map(str, arguments)], check=True, cwd=ROOT)


def read_small(path):
    sentiment = LabelSpace.preset("sentiment")
    return read_labelled_texts(path, columns=Columns(), labels=sentiment, key=seed_key(1))


def test_the_shared_tsv_with_a_mark_loses_no_row(small, tmp_path):
    call(CASES / "tsv-quote" / "make.py", small, tmp_path)
    read = read_small(tmp_path / "c.tsv")
    assert sum(len(part) for part in (read.train, read.val, read.test)) == 60
    assert Counter(read_small(tmp_path / "c.tsv").train.labels.tolist()).total() >= 40


def test_the_shared_half_of_an_emoji_is_refused_by_its_line(small, tmp_path):
    for name, role, read in (
        ("t", "transfer", partial(read_transfer_set, columns=Columns())),
        ("c", "private", read_small),
    ):
        call(CASES / "surrogate" / "make.py", small, tmp_path / role, name)
        with pytest.raises(DataError, match=f"{name}.jsonl: line 4: 1 of 60 texts contain a lone surrogate"):
            read(tmp_path / role / f"{name}.jsonl")
