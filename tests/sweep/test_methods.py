"""Methods as cells: their settings are laid over the study, and the grid's over both."""

import pytest
from typer.testing import CliRunner

from knot_fed.cli.main import app
from knot_fed.config import RunConfig
from knot_fed.config.overrides import resolve_config
from knot_fed.errors import ConfigError
from knot_fed.sweep.answers import State, share_answers
from knot_fed.sweep.folder import SweepFolder
from knot_fed.sweep.grid import make_cells, parse_grid
from knot_fed.sweep.methods import lay_methods, read_methods, settings_of_study, shipped_methods
from tests.conftest import ROOT

BASE = resolve_config(ROOT, ["distill.loss=entropy", "teacher.epochs=2"], num_supernodes=3)


def test_each_method_is_a_cell_with_its_settings_over_the_study():
    cells = make_cells(BASE, {}, [1, 2], read_methods("knot,adafd"))
    assert [cell.name for cell in cells] == ["seed1-knot", "seed1-adafd", "seed2-knot", "seed2-adafd"]
    assert [cell.values for cell in cells[:2]] == [{"method": "knot"}, {"method": "adafd"}]
    assert [(cell.config.distill.loss, cell.config.weights.power) for cell in cells[:2]] == [("ot", 1.0), ("kl", 5.0)]
    assert {cell.config.teacher.epochs for cell in cells} == {2}


def test_the_grid_is_laid_over_methods_and_only_what_a_method_reads_is_varied():
    grid = parse_grid("transport.cost=semantic,augmented", BASE)
    cells = make_cells(BASE, grid, [1], read_methods("knot,fedmd"))
    assert [cell.name for cell in cells] == ["seed1-knot-semantic", "seed1-knot-augmented", "seed1-fedmd"]


def test_methods_that_read_the_same_of_the_clients_share_their_answers():
    cells = make_cells(BASE, {}, [1], read_methods("fedmd,ds-fl,feddf,fedet,knot,selective-fd,adafd"))
    federations = share_answers(cells, state_of=lambda cell: State.WAITING)
    asked = {each.cell.values["method"]: {cell.values["method"] for cell in each.served} for each in federations}
    assert asked == {name: set() for name in ("knot", "fedmd", "ds-fl", "feddf", "fedet", "selective-fd", "adafd")}


def test_methods_of_one_exchange_share_their_answers():
    once = {"rounds": 1, "teacher.start": "scratch", "personal.consensus": "none"}
    presets = {name: {**preset, **once} for name, preset in read_methods("knot,fedet,adafd").items()}
    federations = share_answers(make_cells(BASE, {}, [1], presets), state_of=lambda cell: State.WAITING)
    asked = {each.cell.values["method"]: {cell.values["method"] for cell in each.served} for each in federations}
    assert asked == {"knot": set(), "adafd": {"fedet"}}


def test_all_methods_have_the_baselines_of_the_study(tmp_path):
    """Also one that changes the teachers: a share of the gap is one of the same gap in every row."""
    own = tmp_path / "mine.toml"
    own.write_text("[teacher]\ntemperature = 2.0\n[weights]\nscheme = 'size'\n")
    grid = parse_grid("teacher.epochs=1,2", BASE)
    cells = make_cells(BASE, grid, [1], read_methods(f"{own},knot"))
    assert [cell.reference for cell in cells] == ["seed1-1", "seed1-2"] * 2
    assert cells[0].values == {"method": "mine", "teacher.epochs": 1}
    of_baselines = {(cell.study.teacher.temperature, cell.study.weights.scheme) for cell in cells}
    assert of_baselines == {(BASE.teacher.temperature, BASE.weights.scheme)}
    assert [cell.study.teacher.epochs for cell in cells] == [1, 2, 1, 2]
    assert cells[0].config.teacher.temperature == 2.0


def test_federated_averaging_is_a_baseline_and_its_settings_are_the_studys():
    study, cells, averaged = lay_methods(BASE, read_methods("knot,fedavg"))
    assert (list(cells), averaged, study.fedavg.rounds) == (["knot"], True, 10)
    assert lay_methods(BASE, {}) == (BASE, {}, False)


def test_federated_averaging_cannot_change_the_other_methods(tmp_path):
    own = tmp_path / "fedavg.toml"
    own.write_text("rounds = 7\n[teacher]\nepochs = 1\n[fedavg]\nepochs = 2\n")
    said = (
        r"--methods fedavg: sets rounds, teacher\.epochs, which would change all methods; set only keys of \[fedavg\]"
    )
    with pytest.raises(ConfigError, match=said):
        lay_methods(BASE, read_methods(f"knot,{own}"))
    own.write_text("[fedavg]\nepochs = 2\n")
    study, *_ = lay_methods(BASE, read_methods(f"knot,{own}"))
    assert study.to_mapping() == BASE.to_mapping() | {"fedavg.epochs": 2}


def test_settings_of_the_study_that_shape_all_methods_are_told(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text("[teacher]\ntemperature = 0.7\n")
    sharpened = RunConfig.from_mapping(BASE.to_mapping() | {"teacher.temperature": 0.5})
    methods = read_methods(f"knot,ds-fl,fedavg,{own}")
    assert settings_of_study(sharpened, methods) == [
        "teacher.temperature = 0.5 of the study also holds for knot, ds-fl"
    ]
    assert settings_of_study(BASE, methods) == []


def test_the_command_tells_these_settings_before_anything_runs(tmp_path):
    taken = tmp_path / "notes.txt"
    taken.touch()
    arguments = ["teacher.temperature=0.5", "--methods", "knot,ds-fl", "--app", str(ROOT), "--out", str(taken)]
    result = CliRunner().invoke(app, ["sweep", *arguments])
    assert "note: teacher.temperature = 0.5 of the study also holds for knot, ds-fl" in " ".join(result.stdout.split())
    assert result.exit_code == 1
    assert "cannot be a folder" in result.stderr


def test_a_sweep_of_other_methods_is_refused_in_its_folder(tmp_path):
    def opened(text):
        return SweepFolder.open(
            tmp_path / "sweep", config=BASE, grid={}, clients=3, seeds=[1], methods=read_methods(text)
        )

    opened("knot,fedmd")
    opened("knot,fedmd")
    with pytest.raises(Exception, match="sweep"):
        opened("knot,ds-fl")


@pytest.mark.parametrize(
    ("text", "content", "said"),
    [
        ("knot,odd", "", f"'odd': unknown method; use {', '.join(shipped_methods())}, or a TOML file"),
        ("knot,knot", "", "knot is given twice"),
        ("fedavg", "", "is a baseline, and no cell is left"),
        ("mine.toml", "weights.shceme = 'uniform'", "unknown key .*nearest known"),
        ("mine.toml", "seed = 3", "sets seed, which the sweep sets"),
        ("mine.toml", "data.limit = 3", "sets data.limit, in which methods do not differ"),
        ("missing.toml", "", "missing.toml: no such file"),
    ],
)
def test_what_is_no_method_is_refused_in_one_sentence(tmp_path, monkeypatch, text, content, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_methods(text)


@pytest.mark.parametrize(
    ("methods", "grid"),
    [("ds-fl,fedmd", "weights.pooling=era,mean"), ("ds-fl,fedmd", "teacher.start=personal,scratch")],
)
def test_a_grid_may_set_what_the_study_alone_could_not(methods, grid):
    cells = make_cells(BASE, parse_grid(grid, BASE), [1], read_methods(methods))
    assert len(cells) == 4
    assert {cell.study.weights.pooling for cell in cells} == {BASE.weights.pooling}
    assert {cell.study.teacher.start for cell in cells} == {BASE.teacher.start}


@pytest.mark.parametrize(
    ("setting", "refused"),
    [
        ("student.pretrain = false", True),
        ("teacher.epochs = 3", True),
        ("model = 'tiny-bert'", True),
        ("teacher.calibrate = true", False),
        ("teacher.models = 'ngram-bag'", False),
        ("student.restart = false", False),
    ],
)
def test_a_method_that_changes_the_students_start_is_refused(tmp_path, setting, refused):
    """The start is a line of the study, from which every method's share of the gap counts."""
    own = tmp_path / "mine.toml"
    own.write_text(setting)
    if not refused:
        assert len(make_cells(BASE, {}, [1], read_methods(f"{own},knot"))) == 2
        return
    key = setting.partition(" ")[0]
    with pytest.raises(ConfigError, match=f"mine: sets {key}, which changes the student's start"):
        make_cells(BASE, {}, [1], read_methods(f"{own},knot"))


def test_relative_paths_in_a_method_count_from_the_folder_of_the_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "costs.csv").write_text("0,1\n1,0\n")
    (tmp_path / "mine.toml").write_text("transport.cost = 'costs.csv'")
    assert read_methods("mine.toml")["mine"] == {"transport.cost": str(tmp_path.resolve() / "costs.csv")}
