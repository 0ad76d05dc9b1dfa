"""The files of the genre task, built from made-up rows, and its configuration."""

import gzip
import json
import tomllib

import pytest

from benchmarks.genres import GENRES, SHARES, build
from knot_fed.config import RunConfig, flattened
from tests.conftest import ROOT


@pytest.fixture
def source(tmp_path):
    rows = [
        {"text_a": f"{genre}  sentence {number // 2}", "text_b": "read by nobody", "genre": genre,
         "split": "train" if number < 150 else "test", "label": "0"}
        for genre in GENRES for number in range(200)
    ]  # fmt: skip
    rows += [{"text_a": "no genre", "text_b": "", "genre": "odd", "split": "train", "label": "0"}]
    with gzip.open(tmp_path / "mnli_formal.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def texts_of(folder):
    return {
        name: [json.loads(line) for line in gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8")]
        for name in SHARES
    }


def test_each_distinct_text_is_dealt_once_in_the_shares_of_its_genre(source, tmp_path):
    counts = build(source, tmp_path / "out", seed=0)
    dealt = texts_of(tmp_path / "out")
    everything = [row["text"] for rows in dealt.values() for row in rows]
    assert len(everything) == len(set(everything)) == 1000
    assert {name: len(rows) for name, rows in dealt.items()} == counts
    for name, share in SHARES.items():
        for label in GENRES.values():
            own = [row["split"] for row in dealt[name] if row["label"] == label]
            assert len(own) == pytest.approx(100 * share, abs=2)
            assert own.count("train") == pytest.approx(75 * share, abs=1)


def test_the_same_seed_deals_the_same_files_and_another_one_others(source, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(source, tmp_path / name, seed=seed)
    assert texts_of(tmp_path / "a") == texts_of(tmp_path / "b") != texts_of(tmp_path / "c")


def test_the_configuration_has_the_labels_that_the_files_have():
    config = RunConfig.from_mapping(flattened(tomllib.loads((ROOT / "simulations" / "genres.toml").read_text())))
    assert set(config.label_space().names) == set(GENRES.values())
    assert config.geometry == config.ground_cost == "embedding"
    assert config.data.clients == "writers"
