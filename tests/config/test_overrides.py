from pathlib import Path

import pytest

from knot_fed.config import RunConfig
from knot_fed.config.overrides import read_override, resolve_config, resuming
from knot_fed.config.parsing import defaults_of
from knot_fed.config.table import defaults_table
from knot_fed.errors import ConfigError
from knot_fed.launch.simulation import federation_settings
from knot_fed.sweep.grid import parse_grid

ROOT = Path(__file__).parents[2]


def test_relative_paths_become_absolute_from_the_folder_of_the_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").mkdir()
    config = resolve_config(ROOT, ['data.root="data"', 'model="hf:encoder"'], num_supernodes=4)
    assert config.data.root == str(tmp_path / "data")
    assert config.model == f"hf:{tmp_path / 'encoder'}"
    assert config.runs_dir == str(tmp_path / "runs")
    assert config.wait_for == 4
    assert config.name


def test_later_overrides_win_and_files_mix_with_pairs(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('seed = 5\n[distill]\nloss = "entropy"\n')
    config = resolve_config(ROOT, [str(file), 'seed=6 distill.objective="per-teacher"'], num_supernodes=3)
    assert (config.seed, config.distill.loss, config.distill.objective) == (6, "entropy", "per-teacher")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("absent.toml", "no such file"),
        ("distill.los='ot'", "nearest known: distill.loss"),
        ("weights.scheme='loud'", r"weights.scheme = 'loud'"),
        ("rounds=0", "rounds = 0"),
        ("rounds", "neither a TOML file nor pairs"),
    ],
)
def test_a_bad_override_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config(ROOT, [override], num_supernodes=3)


def test_the_old_backend_config_becomes_federation_settings():
    settings = federation_settings('{"client_resources": {"num_cpus": 1, "num_gpus": 0}}', num_supernodes=8)
    assert settings == "num-supernodes=8 client-resources-num-cpus=1 client-resources-num-gpus=0"


@pytest.mark.parametrize("text", ["{", "[]", '{"client_resources": 1}', '{"gpus": {}}'])
def test_a_bad_backend_config_is_refused(text):
    with pytest.raises(ConfigError, match="--backend-config"):
        federation_settings(text, num_supernodes=2)


@pytest.mark.parametrize("file", sorted((ROOT / "simulations").glob("*.toml")), ids=lambda file: file.stem)
def test_every_simulation_is_a_valid_configuration(file):
    config = resolve_config(ROOT, [str(file)], num_supernodes=3)
    assert config.label_space().names
    assert config.data.client_names


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ("seed=2 task=nli", {"seed": 2, "task": "nli"}),
        ("task='nli'  seed = 2", {"seed": 2, "task": "nli"}),
        ('name="monday" distill.loss=entropy', {"name": "monday", "distill.loss": "entropy"}),
        ('labels.names="bad, so so=3, good"', {"labels.names": "bad, so so=3, good"}),
        ("data.separator=' [SEP] ' data.root=/my/data", {"data.separator": " [SEP] ", "data.root": "/my/data"}),
        ("name=2024 distill.learning-rate=1", {"name": "2024", "distill.learning-rate": 1.0}),
        (
            "distill.loss=my.module:loss student.pretrain=false",
            {"distill.loss": "my.module:loss", "student.pretrain": False},
        ),
        ("data.clients=phones,hotels", {"data.clients": "phones,hotels"}),
        ("", {}),
    ],
)
def test_quotes_may_be_left_out_and_what_is_in_them_is_kept(pairs, found):
    assert read_override(pairs) == found


@pytest.mark.parametrize(
    "pairs", ["seed", "seed=", "seed=2 nli", "=2", 'name="mon', "seed 2", "student.pretrain=False"]
)
def test_what_is_no_pair_or_no_value_is_refused_in_one_sentence(pairs):
    with pytest.raises(ConfigError) as refused:
        read_override(pairs)
    assert "\n" not in str(refused.value)
    assert "--run-config" in str(refused.value)


def test_the_grid_reads_values_as_the_configuration_does():
    base = resolve_config(None, [], num_supernodes=3)
    for text in ("distill.loss=ot,entropy", "distill.loss='ot',\"entropy\""):
        assert parse_grid(text, base) == {"distill.loss": ["ot", "entropy"]}
    assert parse_grid('data.clients="phones,hotels","books"', base) == {"data.clients": ["phones,hotels", "books"]}


@pytest.mark.parametrize(
    ("run", "name", "folder"), [("monday", "monday", None), ("runs/monday/", "monday", "runs"), ("/a/b", "b", "/a")]
)
def test_a_run_to_resume_is_named_or_given_by_its_folder(tmp_path, monkeypatch, run, name, folder):
    monkeypatch.chdir(tmp_path)
    config = resolve_config(None, resuming(["seed=3"], run), num_supernodes=3)
    assert (config.resume, config.name, config.seed) == (name, name, 3)
    assert Path(config.runs_dir) == (tmp_path / (folder or "runs"))


@pytest.mark.parametrize(
    "name", ["/abs/exp1", "../../evil", "a/b", ".hidden", "-x", "a\\b", "x" * 101, "two words", "a\n"]
)
@pytest.mark.parametrize("key", ["name", "resume"])
def test_a_name_that_is_a_path_is_refused_where_it_is_read(key, name):
    with pytest.raises(ConfigError, match=f"run configuration: {key}"):
        RunConfig.from_mapping({key: name})


def test_the_defaults_of_pyproject_are_the_schemas():
    assert defaults_table() in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert RunConfig.from_mapping(defaults_of(RunConfig)) == RunConfig()


def test_a_simulation_that_is_not_in_the_current_folder_is_the_installed_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_override("simulations/nli.toml")["task"] == "nli"
    (tmp_path / "simulations").mkdir()
    (tmp_path / "simulations/nli.toml").write_text("seed = 7")
    assert read_override("simulations/nli.toml") == {"seed": 7}


def test_a_run_to_resume_is_never_lost_from_the_configuration(tmp_path, monkeypatch):
    (tmp_path / "runs/monday").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs/monday")
    assert resuming(["seed=2"], "") == ["seed=2"]
    assert resuming([], "monday") == ['resume="monday"']
    for run in (".", "../monday", "../monday/", str(tmp_path / "runs/monday")):
        assert 'resume="monday"' in resuming([], run)
    assert resuming([], ".")[1] == f'runs-dir="{tmp_path / "runs"}"'
