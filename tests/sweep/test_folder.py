import tomllib
from pathlib import Path

import pytest
import tomli_w

from knot_fed.config.overrides import resolve_config
from knot_fed.errors import RunFolderError
from knot_fed.sweep.folder import SweepFolder
from tests.reporting.made_up import make_run

ROOT = Path(__file__).parents[2]
GRID = {"distill.loss": ["ot", "entropy"]}


def config(*overrides):
    return resolve_config(ROOT, list(overrides), num_supernodes=3)


def test_a_sweep_of_the_same_configuration_is_reopened_with_what_it_keeps(tmp_path):
    first = SweepFolder.open(tmp_path / "sweep", config=config(), grid=GRID, clients=3, seeds=[1])
    assert first.load_references("seed1") is None
    first.save_references("seed1", [{"line": "ensemble", "sd": 0.5}])
    again = SweepFolder.open(tmp_path / "sweep", config=config("seed=9"), grid=GRID, clients=3, seeds=[1])
    assert again.load_references("seed1") == [{"line": "ensemble", "sd": 0.5}]


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


def test_the_settings_of_methods_are_kept_and_others_are_refused(tmp_path):
    given = {"config": config(), "grid": {}, "clients": 3, "seeds": [1]}
    methods = {"one": {"rounds": 2, "teacher.start": "student"}, "two": {"weights.scheme": "size"}}
    SweepFolder.open(tmp_path, **given, methods=methods)
    assert tomllib.loads((tmp_path / "sweep.toml").read_text())["methods"] == methods
    SweepFolder.open(tmp_path, **given, methods=methods)
    with pytest.raises(RunFolderError, match="methods differs in two"):
        SweepFolder.open(tmp_path, **given, methods=methods | {"two": {"weights.scheme": "uniform"}})


def test_a_sweep_that_kept_no_times_still_tells_of_them(tmp_path):
    assert SweepFolder(tmp_path).time_spent().startswith("0 federation(s) and 0 student(s) from their answers took 0 s")


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


def finished_run(runs, config, **changes):
    """Write what a completed run leaves, but for its configuration's changes."""
    folder = make_run(runs, "cell")
    folder.write_config(config.to_mapping() | {"name": "cell", "runs-dir": str(runs), "threads": 7} | changes)


def test_a_finished_run_is_taken_for_a_cell_whatever_its_name_threads_and_places(tmp_path):
    folder = SweepFolder(tmp_path)
    assert folder.finished(folder.cells, "cell", config()) is None
    finished_run(folder.cells, config(), **{"state-dir": "/elsewhere", "timeout": 1.0})
    assert folder.finished(folder.cells, "cell", config())["status"] == "ok"


@pytest.mark.parametrize("changes", [{"distill.epochs": 3}, {"seed": 9}, {"data.root": "/other"}])
def test_a_finished_run_of_another_configuration_is_refused_and_kept(tmp_path, changes):
    folder = SweepFolder(tmp_path)
    finished_run(folder.cells, config(), **changes)
    with pytest.raises(RunFolderError, match=rf"cells/cell: is a run of another.*differs in {next(iter(changes))}\)"):
        folder.finished(folder.cells, "cell", config())
    assert (folder.cells / "cell/summary.json").is_file()


def test_a_distilled_run_is_no_run_of_fedavg(tmp_path):
    folder = SweepFolder(tmp_path)
    finished_run(folder.fedavg, config())
    with pytest.raises(RunFolderError, match=r"differs in the method"):
        folder.finished(folder.fedavg, "cell", config())


def test_a_sweep_is_not_gone_on_with_on_other_rows_under_the_same_path(small, tmp_path):
    SweepFolder.open(tmp_path / "sweep", config=small(), grid=GRID, clients=3, seeds=[1])
    SweepFolder.open(tmp_path / "sweep", config=small(), grid=GRID, clients=3, seeds=[1, 2])
    file = tmp_path / "data/hotels.csv"
    file.write_text(file.read_text() + "a very good room,4\n")
    with pytest.raises(RunFolderError, match="content differs in hotels"):
        SweepFolder.open(tmp_path / "sweep", config=small(), grid=GRID, clients=3, seeds=[1])


def test_a_sweep_of_before_is_reopened_and_its_files_stay_unknown(small, tmp_path):
    SweepFolder.open(tmp_path / "sweep", config=small(), grid=GRID, clients=3, seeds=[1])
    told = tomllib.loads((tmp_path / "sweep/sweep.toml").read_text())
    assert set(told["content"]) == {"phones", "restaurants", "hotels", "books", "forum"}
    del told["content"]
    (tmp_path / "sweep/sweep.toml").write_text(tomli_w.dumps(told))
    SweepFolder.open(tmp_path / "sweep", config=small(), grid=GRID, clients=3, seeds=[1, 2])
    assert "content" not in tomllib.loads((tmp_path / "sweep/sweep.toml").read_text())
