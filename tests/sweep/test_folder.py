from pathlib import Path

import pytest

from knot_fed.config.overrides import resolve_config
from knot_fed.errors import RunFolderError
from knot_fed.sweep.folder import SweepFolder

ROOT = Path(__file__).parents[2]
GRID = {"distill.loss": ["ot", "entropy"]}


def config(*overrides):
    return resolve_config(ROOT, list(overrides), num_supernodes=3)


def test_a_sweep_of_the_same_configuration_is_reopened_with_what_it_keeps(tmp_path):
    first = SweepFolder.open(tmp_path / "sweep", config=config(), grid=GRID, clients=3, seeds=[1])
    assert first.kept_references("seed1") is None
    first.keep_references("seed1", [{"line": "ensemble", "sd": 0.5}])
    again = SweepFolder.open(tmp_path / "sweep", config=config("seed=9"), grid=GRID, clients=3, seeds=[1])
    assert again.kept_references("seed1") == [{"line": "ensemble", "sd": 0.5}]


@pytest.mark.parametrize(
    ("overrides", "grid", "clients", "found"),
    [
        (["distill.epochs=3"], GRID, 3, "config differs in distill.epochs"),
        ([], {"distill.loss": ["ot"]}, 3, "grid differs in distill.loss"),
        ([], GRID, 4, "3 clients, not 4"),
    ],
)
def test_a_sweep_of_another_configuration_is_refused_and_kept(tmp_path, overrides, grid, clients, found):
    SweepFolder.open(tmp_path, config=config(), grid=GRID, clients=3, seeds=[1])
    before = (tmp_path / "sweep.toml").read_bytes()
    with pytest.raises(RunFolderError, match=found):
        SweepFolder.open(tmp_path, config=config(*overrides), grid=grid, clients=clients, seeds=[1])
    assert (tmp_path / "sweep.toml").read_bytes() == before


def test_a_sweep_that_kept_no_times_still_tells_of_them(tmp_path):
    assert SweepFolder(tmp_path).time_spent().startswith("0 runs took 0 s")


def test_two_sweeps_never_run_in_one_folder(tmp_path):
    folder = SweepFolder.open(tmp_path, config=config(), grid=GRID, clients=3, seeds=[1])
    with folder.locked(), pytest.raises(RunFolderError, match="another sweep is running in it"), folder.locked():
        pass
    told = (tmp_path / "sweep.toml").read_text()
    with folder.locked(), pytest.raises(RunFolderError, match="another sweep is running in it"):
        SweepFolder.open(tmp_path, config=config(), grid=GRID, clients=3, seeds=[1, 2])
    assert (tmp_path / "sweep.toml").read_text() == told
    SweepFolder.open(tmp_path, config=config(), grid=GRID, clients=3, seeds=[1, 2])
    assert (tmp_path / "sweep.toml").read_text() != told


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="not empty and no sweep"):
        SweepFolder.open(tmp_path, config=config(), grid=GRID, clients=3, seeds=[1])
