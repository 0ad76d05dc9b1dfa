from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot_fed.config import RunConfig
from knot_fed.config.overrides import resolve_config
from knot_fed.errors import ConfigError
from knot_fed.sweep.folder import SweepFolder
from knot_fed.sweep.grid import make_cells, parse_grid, parse_seeds
from knot_fed.sweep.run import Sweep, averaged_cells

ROOT = Path(__file__).parents[2]
BASE = resolve_config(ROOT, [], num_supernodes=3)
PAPER = "distill.loss=ot,entropy distill.objective=pooled,per-teacher weights.scheme=uniform,size,confidence"


def test_the_grid_of_the_paper_has_twelve_cells_a_seed():
    cells = make_cells(BASE, parse_grid(PAPER, BASE), [1, 2, 3, 4, 5])
    assert len(cells) == len({cell.name for cell in cells}) == 2 * 2 * 3 * 5
    assert {cell.config.seed for cell in cells} == {1, 2, 3, 4, 5}


def test_a_ground_cost_is_not_varied_under_a_loss_without_one():
    cells = make_cells(BASE, parse_grid(PAPER + " transport.cost=semantic,augmented", BASE), [1])
    assert sum(cell.config.distill.loss == "ot" for cell in cells) == 12
    assert sum(cell.config.distill.loss == "entropy" for cell in cells) == 6
    own = make_cells(BASE, parse_grid("distill.loss=my.own:loss transport.cost=semantic,augmented", BASE), [1])
    assert len(own) == 1


def test_a_solver_of_transport_is_not_varied_under_the_sinkhorn_divergence():
    grid = parse_grid("distill.loss=ot,sinkhorn-divergence transport.solver=table,lp", BASE)
    assert sorted(cell.name for cell in make_cells(BASE, grid, [1])) == [
        "seed1-ot-lp", "seed1-ot-table", "seed1-sinkhorn_divergence"
    ]  # fmt: skip
    blurs = parse_grid("distill.loss=ot,sinkhorn-divergence transport.divergence-epsilon=0.1,0.2", BASE)
    assert len(make_cells(BASE, blurs, [1])) == 3


def test_cells_of_one_scheme_are_told_apart_by_the_power_of_their_weights():
    cells = make_cells(BASE, parse_grid("weights.scheme=size,confidence weights.power=1.0,4.0", BASE), [1])
    assert [cell.weighing for cell in cells] == [{"weights.power": 1.0}, {"weights.power": 4.0}] * 2
    of_methods = make_cells(BASE, parse_grid("weights.power=1.0,4.0", BASE), [1], {"a": {"weights.scheme": "size"}})
    assert all(cell.weighing == {} for cell in of_methods)  # their ensemble is the study's


def test_cells_share_reference_lines_unless_data_teachers_or_start_differ():
    cells = make_cells(BASE, parse_grid("distill.loss=ot,entropy teacher.temperature=1,2", BASE), [1, 2])
    assert sorted({cell.reference for cell in cells}) == ["seed1-1.0", "seed1-2.0", "seed2-1.0", "seed2-2.0"]
    assert {cell.reference for cell in make_cells(BASE, parse_grid("distill.loss=ot,entropy", BASE), [1])} == {"seed1"}
    private = make_cells(BASE, parse_grid("distill.loss=ot,entropy privacy.epsilon=1,8", BASE), [1])
    assert sorted({cell.reference for cell in private}) == ["seed1-1.0", "seed1-8.0"]


@pytest.mark.parametrize(("asked", "left"), [(True, ["seed1-none"]), (False, [])])
def test_fedavg_is_left_out_beside_a_privacy_mechanism(tmp_path, asked, left):
    grid = parse_grid("weights.scheme=uniform privacy.mechanism=gaussian,none,dp-sgd distill.loss=ot,entropy", BASE)
    cells = make_cells(BASE, grid, [1])
    folder = SweepFolder.open(tmp_path / "sweep", config=BASE, grid=grid, clients=3, seeds=[1])
    averaged = averaged_cells(Sweep(ROOT, folder, cells, clients=3, jobs=1, fedavg=asked))
    assert [cell.reference for cell in averaged] == left


@given(st.lists(st.sampled_from([0.5, 1, 2, 3.25]), min_size=1, unique=True), st.lists(st.integers(1, 9), unique=True))
def test_every_combination_is_there_once_with_values_of_the_keys_kind(temperatures, rounds):
    grid = f"teacher.temperature={','.join(map(str, temperatures))}"
    grid += f" rounds={','.join(map(str, rounds))}" if rounds else ""
    cells = make_cells(BASE, parse_grid(grid, BASE), [7])
    found = [(cell.config.teacher.temperature, cell.config.rounds) for cell in cells]
    assert sorted(found) == sorted((t, r) for t in temperatures for r in rounds or [1])
    assert all(isinstance(t, float) and isinstance(r, int) for t, r in found)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("distill.los=ot", "--grid: unknown key 'distill.los'; nearest known: distill.loss"),
        ("distill.loss=", "is not pairs"),
        ('distill.loss="ot', "is not pairs"),
        ("distill.loss=ot,ot", "distinct values"),
        ("rounds=1 rounds=2", "each key once"),
        ("seed=1,2", "seeds are given by --seeds"),
    ],
)
def test_a_bad_grid_is_named(grid, message):
    with pytest.raises(ConfigError, match=message):
        parse_grid(grid, BASE)


def test_two_combinations_never_share_a_run_folder():
    with pytest.raises(ConfigError, match="share the run folder seed1-hf_a_b"):
        make_cells(BASE, parse_grid("model=hf:a/b,hf:a_b", BASE), [1])


def test_relative_paths_in_a_grid_count_from_the_folder_of_the_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cost.csv").touch()
    assert parse_grid("transport.cost=semantic,cost.csv", BASE) == {
        "transport.cost": ["semantic", str(tmp_path / "cost.csv")]
    }


def test_a_value_out_of_range_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="rounds = 0"):
        make_cells(BASE, parse_grid("rounds=1,0", BASE), [1])


@pytest.mark.parametrize(("text", "seeds"), [("3", [1, 2, 3]), ("4,2", [4, 2]), ("9,", [9])])
def test_seeds_are_a_number_or_a_list(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [("3,4,3", "seed 3 is given twice"), ("0", "no seed"), ("-1", "natural|number"), ("", "number")],
)
def test_bad_seeds_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_seeds(text)


def test_a_weighting_is_not_varied_under_a_pooling_that_weighs_nobody():
    base = resolve_config(ROOT, ["distill.objective=pooled"], num_supernodes=3)
    grid = parse_grid("weights.scheme=uniform,size weights.pooling=mean,median", base)
    cells = make_cells(base, grid, [1])
    assert [cell.config.weights.weighting for cell in cells] == ["uniform", "unweighted median", "size"]


def test_a_ground_cost_is_varied_where_personal_models_read_it():
    base = RunConfig.from_mapping({"distill.loss": "kl", "personal.consensus": "pooled", "personal.loss": "ot"})
    grid = parse_grid("transport.cost=semantic,zero-one", base)
    assert [cell.config.transport.cost for cell in make_cells(base, grid, [1])] == ["semantic", "zero-one"]
    (cell,) = make_cells(RunConfig.from_mapping({"distill.loss": "kl"}), grid, [1])
    assert cell.values == {}
