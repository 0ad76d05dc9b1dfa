import gzip
import json
import os
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.config.overrides import resolve_config
from knot_fed.data.prepare.recipes import RECIPES, find_recipe, load_from_hub, prepare_files
from knot_fed.data.private import Columns, read_labelled_texts, seed_key
from knot_fed.data.reading.files import data_path
from knot_fed.data.transfer_set import read_transfer_set
from knot_fed.errors import ConfigError, DataError
from knot_fed.labels import LabelSpace

ROOT = Path(__file__).parents[2]
PARTS = ("train", "validation", "test")


def reviews(count, text="text", rating="rating"):
    return [{text: f"review {i}", rating: i % 5 + 1, "other": [i]} for i in range(count)]


def turns(dialogues, emotions):
    return [
        {"Utterance": f"turn {d} {t}", "Emotion": emotions[(d + t) % len(emotions)], "Dialogue_ID": str(d), "Idx": t}
        for d in range(dialogues)
        for t in range(5)
    ]


def pairs(count, genres=("",)):
    columns = {"premise": Value("string"), "hypothesis": Value("string"), "genre": Value("string")}
    label = ClassLabel(names=["entailment", "neutral", "contradiction"])
    rows = [
        {"premise": f"premise {i // 3}", "hypothesis": f"hypothesis {i}", "genre": genre, "label": i % 4 - 1}
        for genre in genres
        for i in range(count)
    ]
    return Dataset.from_list(rows, features=Features({**columns, "label": label}))


def local_data_set(source):
    """A small copy of the hub's data: the real columns, and more than the recipe needs."""
    if "silicone" in source.address:
        emotions = {"meld_e": ["joy", "neutral", "fear"], "iemocap": ["hap", "exc", "neu"]}
        found = next((names for name, names in emotions.items() if name in source.address), ["no emotion", "surprise"])
        return DatasetDict({part: Dataset.from_list(turns(9, found)) for part in PARTS})
    if source.path == "nyu-mll/multi_nli":
        genres = ("telephone", "facetoface", "government", "oup", "fiction", "travel")
        return DatasetDict({part: pairs(60, genres) for part in ("train", "validation_matched")})
    if source.path == "stanfordnlp/snli":
        return DatasetDict({part: pairs(80) for part in PARTS})
    return DatasetDict({"train": Dataset.from_list(reviews(200, *source.columns.values()))})


def simulation_of(recipe):
    return tomllib.loads((ROOT / "simulations" / f"{recipe.simulation}.toml").read_text())


def knot_fed(*arguments, **environment):
    start = "from knot_fed.cli.main import app; app()"
    return subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        env={**os.environ, **environment},
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("name", RECIPES)
def test_prepared_files_are_read_in_the_roles_of_their_simulation(tmp_path, name):
    recipe, out = find_recipe(name), tmp_path / "data" / name
    prepared = prepare_files(recipe, out, load=local_data_set)
    simulation = simulation_of(recipe)
    labels = LabelSpace.preset(simulation["task"])
    roles = simulation["data"]
    read = {
        file: read_labelled_texts(data_path(str(out), file), columns=Columns(), labels=labels, key=seed_key(0))
        for file in [*roles["clients"].split(","), roles["public"]]
    }
    for file, examples in read.items():
        rows = prepared.files[file]
        assert min(len(examples.train), len(examples.val), len(examples.test)) > 0
        assert len(examples.train) + len(examples.val) + len(examples.test) == len(rows)
        train = [row for row in rows if row["split"] == "train"]
        assert examples.train.labels.tolist() == [row["label"] for row in train]
    transfer = read_transfer_set(data_path(str(out), roles["transfer"]), columns=Columns())
    assert len(transfer) + transfer.repeated == len(prepared.files[roles["transfer"]])
    assert transfer.paired == (name == "nli")
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{file}.jsonl.gz" for file in recipe.names)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_and_its_simulation_name_the_same_files(name):
    recipe = find_recipe(name)
    roles = simulation_of(recipe)["data"]
    clients = roles["clients"].split(",")
    assert {*clients, roles["public"], roles["transfer"]} == set(recipe.names)
    assert len(clients) == recipe.clients
    assert roles["root"] == f"data/{name}"


def test_prepared_files_are_the_same_bytes_every_time(tmp_path):
    for folder in ("one", "two"):
        prepare_files(find_recipe("nli"), tmp_path / folder, load=local_data_set)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_limit_of_rows_holds_for_every_file(tmp_path):
    prepared = prepare_files(find_recipe("amazon"), tmp_path, limit=50, load=local_data_set)
    assert {len(rows) for rows in prepared.files.values()} == {50}


def test_an_existing_file_is_neither_replaced_nor_joined(tmp_path):
    (tmp_path / "toys.jsonl.gz").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"toys\.jsonl\.gz already exist; move them away"):
        prepare_files(find_recipe("amazon"), tmp_path, load=local_data_set)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]


def test_a_download_that_fails_half_way_leaves_nothing(tmp_path):
    def broken(rows):
        yield from rows
        raise ConnectionError("quoted text of a review")

    def load(source):
        splits = local_data_set(source)
        return {"train": broken(splits["train"])} if source.names == ("grocery",) else splits

    with pytest.raises(DataError, match=r"Grocery.*cannot be loaded from the hub \(ConnectionError\)") as failure:
        prepare_files(find_recipe("amazon"), tmp_path / "data" / "amazon", load=load)
    assert "quoted" not in str(failure.value)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_with_other_columns_is_named(tmp_path):
    def load(source):
        return {"train": [{"text": "fine", "stars": 5}]}

    with pytest.raises(DataError, match=r"\(KeyError\).* columns text, rating"):
        prepare_files(find_recipe("amazon"), tmp_path / "out", load=load)


def test_a_data_set_of_which_nothing_is_left_is_refused(tmp_path):
    def load(source):
        return {part: turns(8, ["Joie"]) for part in PARTS}

    with pytest.raises(DataError, match=r"meld, iemocap, .*: 0 rows left, 360 dropped"):
        prepare_files(find_recipe("silicone"), tmp_path / "out", load=load)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/out: cannot be written \("):
        prepare_files(find_recipe("silicone"), tmp_path / "file" / "out", load=local_data_set)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="no recipe 'imdb'; use one of amazon, silicone, nli"):
        find_recipe("imdb")


@pytest.mark.parametrize("name", ["amazon", "silicone"])
def test_files_stream_or_load_through_the_hubs_library(tmp_path, name):
    """The real loader, on local files instead of the hub's."""
    source = find_recipe(name).sources[0]
    if source.path == "json":
        lines = [json.dumps({**row, "images": [{"u": 1}] * (i % 2)}) for i, row in enumerate(reviews(300))]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines))
        files = {"train": str(tmp_path / "rows.jsonl")}
    else:
        files = {part: str(tmp_path / part / "*.parquet") for part in PARTS}
        for part in PARTS:
            Dataset.from_list(turns(9, ["joy", "neutral"])).to_parquet(tmp_path / part / "0000.parquet")
    splits = load_from_hub(replace(source, data_files=files))
    rows = {split: list(part) for split, part in splits.items()}
    assert set(rows) == set(files)
    assert all(set(row) == set(source.columns.values()) for part in rows.values() for row in part)
    if source.streaming:
        assert sorted(row["text"] for row in rows["train"]) == sorted(row["text"] for row in reviews(300))
        assert [row["text"] for row in rows["train"]] != [row["text"] for row in reviews(300)]


def test_without_a_network_the_command_says_so_in_one_sentence_and_leaves_nothing(tmp_path):
    done = knot_fed("prepare", "amazon", tmp_path / "data" / "amazon", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be loaded from the hub" in done.stderr
    assert "check the network" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("recipe", "message"), [("imdb", "knot-fed: no recipe 'imdb'"), ("nli", "snli_b.jsonl.gz already exist")]
)
def test_the_command_exits_non_zero_on_a_users_mistake(tmp_path, recipe, message):
    (tmp_path / "snli_b.jsonl.gz").write_bytes(gzip.compress(b""))
    result = CliRunner().invoke(app, ["prepare", recipe, str(tmp_path)])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(list(tmp_path.iterdir())) == 1


def test_the_command_prints_a_run_that_reads_the_folder(tmp_path, monkeypatch):
    local = lambda *args, **options: prepare_files(*args, load=local_data_set)  # noqa: E731
    monkeypatch.setattr("knot_fed.data.prepare.recipes.prepare_files", local)
    out = tmp_path / "my data"
    result = CliRunner().invoke(app, ["prepare", "silicone", str(out)])
    assert result.exit_code == 0, result.output
    assert "meld.jsonl.gz" in result.stdout
    assert "rows dropped" in result.stdout
    run = result.stdout[result.stdout.index("flower-simulation") :].replace("\\\n", " ")
    words = shlex.split(run)
    overrides = [words[place + 1] for place, word in enumerate(words) if word == "--run-config"]
    monkeypatch.chdir(ROOT)
    config = resolve_config(ROOT, overrides, num_supernodes=int(words[words.index("--num-supernodes") + 1]))
    assert config.data.root == str(out)
    assert config.wait_for == len(config.data.client_names) == 4
