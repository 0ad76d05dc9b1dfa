"""One labelled file dealt into roles: every text once, equal texts together, the transfer set without labels."""

import json
import random
import shlex
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knot_fed.config.overrides import resolve_config
from knot_fed.data.dealt import SHARES, deal_file, dealt_folder
from knot_fed.data.private import Columns, read_labelled_texts
from knot_fed.data.transfer_set import text_key
from knot_fed.errors import ConfigError, DataError
from knot_fed.labels import LabelSpace
from tests.data.test_private import write

WORDS = ["good", "bad", "screen", "battery", "late", "early", "works", "fails", "nice", "poor"]


def reviews(count, seed=0):
    draw = random.Random(seed)
    return [{"review": " ".join(draw.choices(WORDS, k=6)) + f" {row}", "stars": row % 5 + 1} for row in range(count)]


def deal(folder, rows, name="reviews.csv", given=None):
    write(folder / name, rows)
    return deal_file(folder / name, folder / "dealt", given or {}, clients=3)


def held(dealt, role):
    return [json.loads(line) for line in (dealt.folder / f"{role}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_row_is_dealt_once_and_only_transfer_rows_lose_their_label(tmp_path):
    rows = reviews(400)
    dealt = deal(tmp_path, rows)
    assert dealt.rows == {role: len(held(dealt, role)) for role in SHARES}
    labelled = {row["review"]: int(row["stars"]) for role in ("private", "public") for row in held(dealt, role)}
    transfer = held(dealt, "transfer")
    assert all(set(row) == {"review"} for row in transfer)
    assert labelled.keys().isdisjoint(row["review"] for row in transfer)
    assert labelled | {row["review"]: None for row in transfer} == {
        row["review"]: labelled.get(row["review"]) for row in rows
    }
    assert labelled.items() <= {row["review"]: row["stars"] for row in rows}.items()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_decides_nothing_and_equal_texts_stay_together(tmp_path_factory, seed):
    rows = reviews(100, seed) + [{"review": f"SO {row['review']}!", "stars": 1} for row in reviews(20, seed)]
    rows += [{"review": f"so  {row['review']}", "stars": 5} for row in reviews(20, seed)]
    one = deal(tmp_path_factory.mktemp("one"), rows)
    other = deal(tmp_path_factory.mktemp("other"), random.Random(seed).sample(rows, len(rows)))
    for role in SHARES:
        assert sorted(map(str, held(one, role))) == sorted(map(str, held(other, role)))
    keys = [{text_key(row["review"]) for row in held(one, role)} for role in SHARES]
    assert sum(map(len, keys)) == len(set.union(*keys))


def test_shares_are_near_those_documented(tmp_path):
    dealt = deal(tmp_path, reviews(5000))
    for role, share in SHARES.items():
        assert dealt.rows[role] / 5000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.jsonl", "r.jsonl.gz", "r.parquet"])
def test_each_format_is_dealt_into_files_that_a_run_reads(tmp_path, name):
    dealt = deal(tmp_path, reviews(200), name)
    columns, labels = Columns(text="review", label="stars"), LabelSpace.from_text("1,2,3,4,5", "")
    split = read_labelled_texts(dealt.folder / "private.jsonl", columns=columns, labels=labels)
    assert sum(len(getattr(split, part)) for part in ("train", "val", "test")) == dealt.rows["private"]


def test_pairs_words_as_labels_and_named_columns_are_dealt(tmp_path):
    rows = [{"premise": f"a {row}", "hypothesis": f"b {row}", "answer": ["yes", "no"][row % 2]} for row in range(120)]
    dealt = deal(tmp_path, rows, given={"data.label": "answer"})
    assert {row["answer"] for row in held(dealt, "public")} == {"yes", "no"}
    assert set(held(dealt, "transfer")[0]) == {"premise", "hypothesis"}
    assert 'label = "answer"' in dealt.configuration.read_text()


def test_dealing_again_replaces_what_was_dealt_and_nothing_else(tmp_path):
    first = deal(tmp_path, reviews(100))
    assert deal(tmp_path, reviews(100)) == first
    assert sum(deal(tmp_path, reviews(140)).rows.values()) == 140
    (first.folder / "mine.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    with pytest.raises(ConfigError, match="holds other files than dealt ones"):
        deal(tmp_path, reviews(100))
    assert before == {path.name: path.read_bytes() for path in first.folder.iterdir()}


def test_the_configuration_begins_with_the_command_that_runs_it_again(tmp_path):
    (tmp_path / "a b").mkdir()
    dealt = deal(tmp_path / "a b", reviews(100))
    first, _, _ = dealt.configuration.read_text(encoding="utf-8").partition("\n")
    command = shlex.split(first.partition("run it again by: ")[2])
    assert command == ["flower-simulation", str(dealt.configuration), "--num-supernodes", "3"]


def test_a_configuration_that_was_not_dealt_is_kept(tmp_path):
    (tmp_path / "dealt").mkdir()
    (tmp_path / "dealt" / "run.toml").write_text("seed = 2")
    with pytest.raises(ConfigError, match="was not written by --data"):
        deal(tmp_path, reviews(100))


@pytest.mark.parametrize("name", ["My reviews (1).csv", "отзывы.csv", "..csv", "é" * 90 + ".csv", "-.csv"])
def test_any_name_of_a_file_gives_a_task_that_names_a_run(tmp_path, name):
    dealt = deal(tmp_path, reviews(100), name)
    task = tomllib.loads(dealt.configuration.read_text(encoding="utf-8"))["task"]
    config = resolve_config(None, [str(dealt.configuration)], num_supernodes=3)
    assert config.name.startswith(f"{task}-")
    assert dealt_folder(tmp_path / name).name == f"{task}-dealt"
    assert not [note for note in dealt.notes if "client's" in note]


def test_a_split_column_is_left_out_and_told(tmp_path):
    rows = [row | {"split": "test"} for row in reviews(100)]
    dealt = deal(tmp_path, rows)
    assert not [row for role in SHARES for row in held(dealt, role) if "split" in row]
    assert "column 'split' is not used: each role is split anew" in dealt.notes


@pytest.mark.parametrize("key", ["data.root", "data.clients", "data.public", "data.transfer"])
def test_files_that_are_named_too_are_refused(tmp_path, key):
    with pytest.raises(ConfigError, match=f"--data deals reviews.csv into all roles, but {key} is set"):
        deal(tmp_path, reviews(100), given={key: "x"})


def test_private_rows_are_readable_by_their_owner_only(tmp_path):
    dealt = deal(tmp_path, reviews(100))
    assert dealt.folder.stat().st_mode & 0o077 == 0
    assert (dealt.folder / "private.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("rows", "given", "match"),
    [
        ([{"text": f"a {row}"} for row in range(120)], {}, "no column looks like labels"),
        (reviews(99), {}, "99 rows are too few"),
        ([{"review": "the same", "stars": row % 5} for row in range(120)], {}, "no text falls to the"),
        ([{"review": f"a {row}", "stars": 1} for row in range(120)], {}, "1 distinct label"),
        (reviews(120), {"data.label": "absent"}, "absent"),
    ],
)
def test_a_file_that_cannot_be_dealt_is_refused_and_writes_nothing(tmp_path, rows, given, match):
    with pytest.raises(DataError, match=match):
        deal(tmp_path, rows, given=given)
    assert not (tmp_path / "dealt").exists()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        deal_file(tmp_path / "absent.csv", dealt_folder(tmp_path / "absent.csv"), {}, clients=3)
