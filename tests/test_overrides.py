from pathlib import Path

import pytest

from knot_fed.config.overrides import resolve_config
from knot_fed.errors import ConfigError
from knot_fed.simulation import federation_settings

ROOT = Path(__file__).parent.parent


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
    settings = federation_settings('{"client_resources": {"num_cpus": 2, "num_gpus": 0.5}}', num_supernodes=8)
    assert settings == "num-supernodes=8 client-resources-num-cpus=2 client-resources-num-gpus=0.5"


@pytest.mark.parametrize("text", ["{", "[]", '{"client_resources": 1}', '{"gpus": {}}'])
def test_a_bad_backend_config_is_refused(text):
    with pytest.raises(ConfigError, match="--backend-config"):
        federation_settings(text, num_supernodes=2)


@pytest.mark.parametrize("file", sorted((ROOT / "simulations").glob("*.toml")), ids=lambda file: file.stem)
def test_every_simulation_is_a_valid_configuration(file):
    config = resolve_config(ROOT, [str(file)], num_supernodes=3)
    assert config.label_space().names
    assert config.data.client_names
