"""A sweep asks each question once, and its cells are those of separate runs."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from knot_fed.config.overrides import resolve_config
from knot_fed.federation.from_answers import question, unserved
from knot_fed.sweep.answers import State, share_answers
from knot_fed.sweep.grid import make_cells, parse_grid

BASE = resolve_config(Path(__file__).parents[2], [], num_supernodes=3)
PAPER = "distill.loss=ot,entropy distill.objective=pooled,per-teacher weights.scheme=uniform,size,confidence"


def cells_of(grid, seeds=(1, 2, 3, 4, 5), base=BASE):
    return make_cells(base, parse_grid(grid, base), list(seeds))


def test_the_sweep_of_the_paper_asks_once_a_seed():
    cells = cells_of(PAPER)
    federations = share_answers(cells, state_of=lambda _: State.WAITING)
    assert [each.cell.seed for each in federations] == [1, 2, 3, 4, 5]
    assert all(each.cell.config.weights.scheme == "confidence" and len(each.served) == 11 for each in federations)


def test_a_run_that_has_answered_serves_the_others_where_it_can():
    cells = cells_of(PAPER, [1])
    uniform = next(cell for cell in cells if cell.config.weights.scheme == "uniform")
    first, second = share_answers(
        cells, state_of=lambda cell: State.ANSWERED if cell.name == uniform.name else State.WAITING
    )
    assert {first.cell.config.weights.scheme, second.cell.config.weights.scheme} == {"uniform", "confidence"}
    schemes = {
        each.cell.config.weights.scheme: {c.config.weights.scheme for c in each.served} for each in (first, second)
    }
    assert schemes == {"uniform": {"uniform", "size"}, "confidence": {"confidence"}}


def test_runs_that_keep_no_answers_share_none():
    cells = [
        replace(cell, config=cell.config.model_copy(update={"keep_answers": False})) for cell in cells_of(PAPER, [1])
    ]
    assert [each.served for each in share_answers(cells, state_of=lambda _: State.WAITING)] == [[]] * 12


def test_cells_whose_clients_make_personal_models_each_ask_them_and_serve_the_others():
    cells = cells_of("personal.consensus=none,pooled personal.weight=1.0,2.0", [1])
    federations = share_answers(cells, state_of=lambda _: State.WAITING)
    alone = [each.cell.config.personal.consensus for each in federations]
    assert sorted(alone) in (["none", "pooled", "pooled"], ["pooled", "pooled"])
    assert sum(1 + len(each.served) for each in federations) == 4
    assert all(cell.config.personal.consensus == "none" for each in federations for cell in each.served)


def test_a_finished_run_without_answers_serves_nobody():
    cells = cells_of(PAPER, [1])
    silent = next(cell for cell in cells if cell.config.weights.scheme == "confidence")
    federations = share_answers(cells, state_of=lambda cell: State.SILENT if cell is silent else State.WAITING)
    assert [each.cell.name for each in federations] != [silent.name]
    assert len(federations) == 1
    assert silent in federations[0].served


GRIDS = st.lists(
    st.sampled_from(
        ["distill.loss=ot,kl", "weights.scheme=uniform,confidence,density", "teacher.epochs=1,2",
         "weights.power=1.0,2.0", "student.pretrain=true,false", "data.limit=50,60"]
    ), min_size=1, max_size=4, unique=True,
)  # fmt: skip


@given(GRIDS, st.sets(st.integers(0, 20)))
def test_every_cell_is_run_once_or_served_by_answers_to_its_own_question(grid, answered):
    cells = cells_of(" ".join(grid), [1, 2])
    names = {cell.name for place, cell in enumerate(cells) if place in answered}
    federations = share_answers(cells, state_of=lambda cell: State.ANSWERED if cell.name in names else State.WAITING)
    told = [each.cell.name for each in federations] + [cell.name for each in federations for cell in each.served]
    assert sorted(told) == sorted(cell.name for cell in cells)
    for each in federations:
        for cell in each.served:
            assert unserved(question(each.cell.config), question(cell.config)) == []
