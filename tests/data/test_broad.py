"""Broad transfer sets are built from public texts only."""

import gzip
import json
import shutil

import pytest

from benchmarks.broad import build, main, near_pairs, public_rows
from knot_fed.errors import ConfigError
from tests.models.tiny_models import write_bert

WORDS = ("room", "phone", "film", "night", "boat", "tree", "road", "song")


def write(folder, name, rows):
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "shared"
    for name in ("movie_a", "movie_b", "product"):
        rows = [
            {"text": f"{name} {word}", "label": 1, "split": "test" if word == "song" else "train"} for word in WORDS
        ]
        write(folder / "sentiment", name, rows)
    for name in ("snli_a", "snli_b", "sick"):
        pairs = [{"text_a": f"{name} a {w}", "text_b": f"{name} b {w}", "label": 0, "split": "train"} for w in WORDS]
        write(folder / "nli", name, pairs)
    turns = [{"text": f"a turn about a {w} [SEP] an earlier turn", "label": 2, "split": "train"} for w in WORDS]
    for name in ("dailydialog_3", "meld"):
        write(folder / "emotion", name, turns)
    return folder


def test_it_holds_texts_of_the_public_files_without_labels_and_links_the_others(source, tmp_path):
    encoder = write_bert(tmp_path / "bert")
    sizes = build(source, tmp_path / "broad", encoder)
    single, pairs = (public_rows(tmp_path / "broad" / task, "broad") for task in ("sentiment", "nli"))
    assert sizes == {"sentiment": len(single), "nli": len(pairs)}
    assert {tuple(row) for row in single} == {("text",)}
    assert {tuple(row) for row in pairs} == {("text_a", "text_b")}
    kinds = {row["text"].split(" ")[0] for row in single}
    assert kinds == {"movie_a", "movie_b", "snli_a", "snli_b", "a"}
    assert not any("song" in row["text"] for row in single if row["text"].startswith("movie_a")), "its test split"
    assert not any("sick" in row["text_a"] or "product" in row["text_a"] for row in pairs)
    assert public_rows(tmp_path / "broad" / "nli", "sick") == public_rows(source / "nli", "sick")


def test_the_folder_of_the_data_is_not_built_into_and_links_follow_another_source(source, tmp_path):
    encoder, before = write_bert(tmp_path / "bert"), public_rows(source / "nli", "sick")
    with pytest.raises(ConfigError, match="is the folder of the data too; name a new one"):
        build(source, source, encoder)
    assert public_rows(source / "nli", "sick") == before
    build(source, tmp_path / "broad", encoder)
    shutil.copytree(source, tmp_path / "other")
    build(tmp_path / "other", tmp_path / "broad", encoder)
    assert (tmp_path / "broad" / "nli" / "sick.jsonl.gz").resolve().is_relative_to(tmp_path / "other")


def test_no_sentence_is_paired_with_itself(tmp_path):
    encoder = write_bert(tmp_path / "bert")
    sentences = [f"{first} {second}" for first in WORDS for second in WORDS[:4]]
    pairs = near_pairs(sentences, encoder, count=20, seed=1)
    assert len(pairs) == 20
    assert all(first != second for first, second in pairs)


@pytest.mark.parametrize(
    ("folder", "encoder", "found"),
    [("empty", "hf:/nowhere", "movie_a.jsonl.gz: no such file"), ("shared", "hf:/nowhere", "'hf:/nowhere': no such")],
)
def test_a_missing_file_or_encoder_is_told(source, tmp_path, capsys, monkeypatch, folder, encoder, found):
    given = ["broad", str(tmp_path / folder), str(tmp_path / "out"), "--encoder", encoder]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert found in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
