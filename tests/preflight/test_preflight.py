import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import typer
from typer.testing import CliRunner

from knot_fed.cli.boundary import without_traceback
from knot_fed.cli.main import app
from knot_fed.cli.simulate import simulate
from knot_fed.config.overrides import resolve_config
from knot_fed.errors import (
    ConfigError,
    DataError,
    GroundCostError,
    LabelSpaceError,
    ModelError,
    PluginError,
    PrivacyError,
    RunFolderError,
)
from knot_fed.preflight import check_run, check_run_folder
from knot_fed.preflight.files import _read_files
from knot_fed.preflight.models import check_models
from knot_fed.runs.run_folder import RunFolder
from knot_fed.training import dp_sgd
from tests.models.tiny_models import write_bert, write_config, write_family

ROOT = Path(__file__).parents[2]
simulation = typer.Typer()
simulation.command()(without_traceback("flower-simulation", simulate))


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ('data.clients="phones,opera"', DataError, "builtin:opera: no such domain"),
        ('data.root="absent"', DataError, "phones: no file phones{.jsonl.gz,"),
        ('data.root="absent" data.clients="phones.csv"', DataError, "no file phones.csv in data.root"),
        ('data.transfer="opera"', DataError, "builtin:opera"),
        ('task="weather"', LabelSpaceError, "no label space for task 'weather'"),
        ('teacher.models="ngram-bag,bert,ngram-bag"', ModelError, "no model 'bert'"),
        ('transport.cost="absent.csv"', GroundCostError, "absent.csv: cannot be read"),
        ('task="emotion" transport.solver="line"', GroundCostError, "line"),
        (
            'data.clients="my phones,hotels,books"',
            ConfigError,
            "gives a client the name 'my phones', which is not 1 to 64",
        ),
        ("data.clients=phones,hotels,phones", ConfigError, "data.clients has 'phones' more than once"),
        ("data.clients=../phones", ConfigError, "data.clients = '../phones': use names of files below data.root"),
        ("teacher.models=ngram-bag,ngram-bag", ConfigError, "names 2 models for 3 files"),
        ("trainable=head", ConfigError, "ngram-bag is not one; use trainable = 'all'"),
        ("distill.loss=my.own:loss", PluginError, r"cannot be imported \(No module named 'my'\)"),
        ("distill.loss=math:pi", ConfigError, "is of type float, not a function"),
        ("weights.scheme=math:hypot", PluginError, "your function raised TypeError"),
        ("data.limit=1", DataError, "builtin:books: 1 training rows with fewer than 2 classes; raise data.limit"),
        ("data.limit=5 rounds=3", ConfigError, r"5 distinct transfer text\(s\) for 3 round"),
        ("rounds=1500", ConfigError, "1947 distinct transfer text.s. for 1500 round"),
        ('model="hf:/absent/encoder"', ModelError, "'hf:/absent/encoder': no such folder"),
        ('student.model="hf:./encoder"', ModelError, "no such folder"),
        (f'teacher.models="ngram-bag,hf:{ROOT},ngram-bag"', ModelError, "no config.json in that folder"),
        ("wait-for=4", ConfigError, "wait-for = 4, but there are 3 clients"),
        ("min-teachers=5", ConfigError, "min-teachers = 5, but there are 3 clients"),
        (
            'privacy.secure-sum=true distill.objective="pooled" privacy.threshold=4',
            ConfigError,
            r"privacy\.threshold = 4 with 3",
        ),
    ],
)
def test_a_run_that_could_only_fail_is_refused_before_it_starts(override, error, message):
    with pytest.raises(error, match=message):
        check_run(resolve_config(ROOT, [override], num_supernodes=3), clients=3)


def shared_file(folder, rows):
    """Write a file without a split column, so that 70 % of its rows are there to train on."""
    text = "".join(f"text {row} of the file,{('negative', 'positive')[row % 2]}\n" for row in range(rows))
    (folder / "all.csv").write_text("text,label\n" + text)
    (folder / "forum.csv").write_text("text\n" + "".join(f"{word} is shared\n" for word in ("this", "that")))
    return [f'data.root="{folder}" data.clients="all" data.public="all" data.transfer="forum"']


@pytest.mark.parametrize(("clients", "refused"), [(20, False), (31, True), (400, True), (1_000_000, True)])
def test_more_clients_than_a_shared_file_has_rows_for_are_refused_with_the_most_that_it_has(tmp_path, clients, refused):
    config = resolve_config(ROOT, shared_file(tmp_path, 300), num_supernodes=clients)
    if not refused:
        check_run(config, clients=clients)
        return
    with pytest.raises(ConfigError, match=f"{clients} clients share all, and its ") as error:
        check_run(config, clients=clients)
    most = int(str(error.value).partition("; use ")[2].split()[0])
    assert 20 <= most <= 30
    check_run(resolve_config(ROOT, shared_file(tmp_path, 300), num_supernodes=most), clients=most)


def test_a_shared_file_is_read_with_the_runs_delimiter_and_quoting(tmp_path):
    arguments = [*shared_file(tmp_path, 300), 'data.delimiter=";" data.quoting="none"']
    for name in ("all", "forum"):
        file = tmp_path / f"{name}.csv"
        file.write_text(file.read_text().replace(",", ";").replace("text 7 ", 'text "7 '))
    assert check_run(resolve_config(ROOT, arguments, num_supernodes=4), clients=4) == []


def test_how_files_are_read_is_told_once_for_all_that_are_read_so(tmp_path):
    arguments = shared_file(tmp_path, 300)
    assert check_run(resolve_config(ROOT, arguments, num_supernodes=2), clients=2) == []
    rows = "".join(f"text {row} of the file,{row % 5}.0\n\n" for row in range(300))
    for name in ("all", "other"):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + rows)
    config = resolve_config(ROOT, [*arguments, 'data.clients="all,other"'], num_supernodes=2)
    assert check_run(config, clients=2) == [
        "all.csv, other.csv: 300 rows on 601 lines: 1 of the header, 300 blank, 0 more inside quoted texts",
        "all.csv, other.csv: labels are numbers by position, 0 for 'very negative' to 4 for 'very positive'",
    ]


def test_more_clients_than_memory_is_enough_for_are_refused_with_the_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    config = resolve_config(ROOT, shared_file(tmp_path, 300), num_supernodes=20)
    with pytest.raises(ConfigError, match="GB are free; use 3 clients at most"):
        check_run(config, clients=20)


@pytest.mark.parametrize("program", [[app, "sweep", "seed=1"], [app, "audit", "seed=1"], [simulation, "--verbose"]])
def test_a_thousand_million_clients_are_refused_at_once(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    command, *arguments = program
    result = CliRunner().invoke(command, [*arguments, "--app", str(ROOT), "--num-supernodes", "1000000000"])
    assert result.exit_code == 1
    assert "--num-supernodes 1000000000: too many virtual clients; use 1000000 at most" in result.stderr
    assert result.stderr.count("\n") == 1
    assert time.process_time() - started < 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("override", ["seed=2", "data.root=hub", "model=hf:somebody/encoder"])
def test_what_only_the_run_can_know_is_left_to_it(override):
    check_run(resolve_config(ROOT, [override], num_supernodes=3), clients=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.toml"], "no such file"),
        (["seed=1", "--grid", "distil.loss=ot"], "unknown key"),
        (["seed=1", "--grid", "transport.cost=semantic,sematic"], "sematic"),
        (["seed=1", "--seeds", "2,2"], "given twice"),
        (["seed=1", "--methods", ""], "--methods '': unknown method"),
        (["seed=1", "--num-supernodes", "1"], "min-teachers = 2, but there are 1 clients"),
        (["seed=1", "--out", "notes.txt"], "notes.txt: cannot be a folder"),
        (["seed=1", "--out", "broken"], "not valid TOML"),
        (["data.root='absent'"], "no file phones"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused_in_one_sentence_and_writes_nothing(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/sweep.toml").write_text("seeds =")
    result = CliRunner().invoke(app, ["sweep", *arguments, "--app", str(ROOT)])
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["broken", "notes.txt", "sweep.toml"]
    assert (tmp_path / "broken/sweep.toml").read_text() == "seeds ="


BROKEN = {
    "books": ("text,label,split\ngood,positive,train\n", "books.csv: 1 rows to train on, 0 to validate and 0 to"),
    "forum": ("words\nx\n", "forum.csv: no column 'text'"),
    "hotels": ("text,label\nfine,excellent\n", "hotels.csv: column 'label': 1 of 1 rows are neither a label name"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_file_is_read_before_anything_starts(small, name):
    config = small()
    check_run(config, clients=3)
    content, message = BROKEN[name]
    (Path(config.data.root) / f"{name}.csv").write_text(content)
    _read_files.cache_clear()
    with pytest.raises(DataError, match=message):
        check_run(config, clients=3)


def test_a_taken_name_and_nothing_to_resume_are_refused_before_anything_starts(run_config):
    fresh = run_config(name="monday")
    check_run_folder(fresh)
    RunFolder.create(Path(fresh.runs_dir), "monday").write_config(fresh.to_mapping())
    with pytest.raises(RunFolderError, match="a run of this name exists"):
        check_run_folder(fresh)
    with pytest.raises(RunFolderError, match="nothing to resume"):
        check_run_folder(run_config(keys={"name": "monday", "resume": "monday"}))


def test_a_runs_pretrained_models_are_tried_and_what_is_odd_of_them_is_told(small, tmp_path):
    teacher, student = write_bert(tmp_path / "t"), write_bert(tmp_path / "s", max_position_embeddings=32)
    config = small({"model": teacher, "student.model": student})
    assert check_run(config, clients=3) == [
        f"model {name!r}: reads {tokens} tokens of an example, fewer than max-length"
        for name, tokens in ((student, 32), (teacher, 64))
    ]
    assert check_run(small({"model": teacher, "teacher.max-length": 64}), clients=3) == []
    wrong = write_bert(tmp_path / "w")
    write_config(tmp_path / "w", model_type="mamba")
    with pytest.raises(ModelError, match="no classifier of type 'mamba'"):
        check_run(small({"teacher.models": f"{wrong},ngram-bag,{teacher}"}), clients=3)


@pytest.mark.parametrize("trainable", ["all", "head"])
def test_dp_sgd_of_a_teacher_that_opacus_cannot_treat_is_refused_before_anything_starts(
    run_config, tmp_path, trainable
):
    """Its head alone can be trained; and the student, which DP-SGD does not train, may be of that kind."""
    models = {"model": write_family(tmp_path, "gpt-2 without padding"), "trainable": trainable}
    config = run_config(keys=models | {"privacy.mechanism": "dp-sgd", "weights.scheme": "uniform"})
    if trainable == "head":
        check_models(config, ["a text"])
        return
    with pytest.raises(PrivacyError, match=r"Opacus cannot treat a layer .*; use ngram-bag, tiny-bert, or an hf:"):
        check_models(config, ["a text"])
    bert = run_config(keys={"model": write_bert(tmp_path / "bert"), "privacy.mechanism": "dp-sgd"})
    for texts in (["a text"], []):
        check_models(bert, texts)
    student = {"model": "ngram-bag", "student.model": models["model"], "privacy.mechanism": "dp-sgd"}
    check_models(run_config(keys=student | {"weights.scheme": "uniform"}), ["a text"])


def test_dp_sgd_without_opacus_is_refused_before_anything_starts(run_config, monkeypatch):
    monkeypatch.setattr(dp_sgd, "find_spec", lambda name: None)
    config = run_config(keys={"privacy.mechanism": "dp-sgd", "weights.scheme": "uniform"})
    with pytest.raises(PrivacyError, match="needs Opacus, which is not installed; pip install"):
        check_models(config, ["a text"])
