"""`knot-fed client predict` labels an owner's file with its personal model."""

import csv
import io
import json

import pytest
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.labels import LabelSpace
from knot_fed.models import ModelSpec, build_classifier, save_classifier

LABELS = LabelSpace.preset("sentiment").names
SPEC = ModelSpec("ngram-bag", "all", LABELS, paired=False, max_length=128)


@pytest.fixture
def state(tmp_path):
    save_classifier(build_classifier(SPEC, seed=1), tmp_path / "state" / "personal")
    return tmp_path / "state"


def call(*arguments):
    return CliRunner().invoke(app, ["client", "predict", *map(str, arguments)])


@pytest.mark.parametrize("below", ["", "personal"])
def test_a_csv_file_gets_a_label_and_all_probabilities(state, tmp_path, below):
    file = tmp_path / "new.csv"
    file.write_text('id,text\n7,"good, really"\n8,bad\n')
    result = call(state / below, file)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO((tmp_path / "new-labelled.csv").read_text())))
    assert [row["id"] for row in rows] == ["7", "8"]
    assert rows[0]["text"] == "good, really"
    for row in rows:
        shares = {name: float(row[f"probability of {name}"]) for name in LABELS}
        assert abs(sum(shares.values()) - 1) < 1e-4
        assert row["predicted label"] == max(shares, key=shares.get)


def test_json_lines_and_another_column(state, tmp_path):
    file, out = tmp_path / "new.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"words": "good", "n": 1}\n{"words": "bad", "n": 2}\n')
    assert call(state, file, "--text", "words", "--out", out).exit_code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["n"] for row in rows] == [1, 2]
    assert rows[0]["predicted label"] in LABELS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "new.csv"), "nowhere: no personal model; give the state-dir"),
        (("state", "missing.csv"), "missing.csv: no such file; give a csv, tsv, jsonl or parquet file of texts"),
        (("state", "empty.csv"), "empty.csv: 0 rows, expected texts; give a file with rows"),
        (("state", "pairs.csv"), "the model reads single texts, these are pairs"),
        (("state", "new.csv", "--text", "words"), "header, or set --text, or --text-a and --text-b"),
        (("state", "cut.csv"), "it has 'text;n'; give --delimiter ';'"),
        (("state", "tabs.csv"), r"give --delimiter $'\t'"),
        (("state", "cut.csv", "--delimiter", ";;"), "--delimiter ';;': use one character"),
        (("state", "new.csv", "--out", "there.csv"), "there.csv: already exists; give another file by --out"),
        (("state", "again.csv"), "again.csv: has a column 'predicted label' already, which would be replaced"),
        (("state", "new.csv", "--out", "out.xlsx"), "out.xlsx: unknown kind of file"),
    ],
)
def test_what_cannot_be_labelled_is_told_in_one_sentence(state, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.csv").write_text("text\ngood\n")
    (tmp_path / "empty.csv").write_text("text\n")
    (tmp_path / "pairs.csv").write_text("text_a,text_b\nx,y\n")
    (tmp_path / "there.csv").write_text("kept")
    (tmp_path / "cut.csv").write_text("text;n\ngood;1\n")
    (tmp_path / "tabs.csv").write_text("text\tn\ngood\t1\n")
    (tmp_path / "again.csv").write_text("text,predicted label\ngood,2\n")
    result = call(*arguments)
    assert result.exit_code == 1
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert "data." not in result.output
    assert (tmp_path / "there.csv").read_text() == "kept"
