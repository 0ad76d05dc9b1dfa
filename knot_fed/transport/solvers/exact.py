"""Exact solvers: closed forms for labels on a line or at equal distances, a table of vertices, and a linear program.

For differences `d = a - b` over a metric they return the cost `<h, d>` and the Kantorovich potential `h`, a subgradient
of the cost with respect to `a`; `-h` is one with respect to `b`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from knot_fed.errors import GroundCostError
from knot_fed.transport.ground_cost import Placed

MOST_PIVOTS = 1_000_000
OPTIMAL = 1
CHUNK = 1 << 19
"""Candidate values that the table solver computes at once, so that they stay in the cache."""

Costs = Float[torch.Tensor, "pairs"]
Potentials = Float[torch.Tensor, "pairs classes"]


def cut_solution(difference: Float[torch.Tensor, "pairs classes"], placed: Placed) -> tuple[Costs, Potentials]:
    """Solve on a tree: `W = sum_e length_e |mass of d beyond edge e|`.

    On a line the masses are differences of cumulative distributions (Vallender 1974); on a star (labels at equal
    distances) W is half the distance times `||d||_1`.
    """
    flows = difference @ placed.membership
    cost: Costs = flows.abs() @ placed.lengths
    return cost, (torch.sign(flows) * placed.lengths) @ placed.membership.T


def table_solution(difference: Float[torch.Tensor, "pairs classes"], placed: Placed) -> tuple[Costs, Potentials]:
    """Maximise `<h, d>` over the vertices that can be optimal for the sign pattern of each difference."""
    if placed.merge is not None:
        cost, potentials = _best_vertices(difference @ placed.merge, placed)
        return cost, potentials @ placed.merge.T
    return _best_vertices(difference, placed)


def _best_vertices(difference: Float[torch.Tensor, "pairs places"], placed: Placed) -> tuple[Costs, Potentials]:
    _, candidates, places = placed.vertices.shape
    step = max(1, CHUNK // (candidates * places))
    if len(difference) <= step:
        return _best_of_chunk(difference, placed)
    parts = [_best_of_chunk(chunk, placed) for chunk in torch.split(difference, step)]
    return torch.cat([cost for cost, _ in parts]), torch.cat([potentials for _, potentials in parts])


def _best_of_chunk(difference: Float[torch.Tensor, "pairs places"], placed: Placed) -> tuple[Costs, Potentials]:
    _, candidates, places = placed.vertices.shape
    pattern = ((difference > 0).to(difference.dtype) @ placed.powers).long()
    values = torch.bmm(placed.vertices.index_select(0, pattern), difference[:, :, None])[:, :, 0]
    cost, winner = values.max(dim=1)
    return cost, placed.vertices.view(-1, places).index_select(0, pattern * candidates + winner)


def program_solution(
    a: Float[torch.Tensor, "pairs classes"], b: Float[torch.Tensor, "pairs classes"], placed: Placed
) -> tuple[Costs, Potentials, Potentials]:
    """Solve each pair's linear program by POT's network simplex (Bonneel et al. 2011), in float64 on the CPU.

    Rows may have any equal masses. Returns the cost and the potentials of `a` and `b`; raises GroundCostError if the
    network simplex does not reach the optimum.
    """
    if not len(a):
        return a[:, 0], a, b
    cost = placed.matrix.double().cpu().numpy()
    firsts, seconds = (side.detach().double().cpu().numpy() for side in (a, b))
    solved = [_program(first, second, cost) for first, second in zip(firsts, seconds, strict=True)]
    totals, f, g = (torch.from_numpy(np.array(column)).to(a) for column in zip(*solved, strict=True))
    return totals, f, g


def _program(
    more: Float[np.ndarray, "classes"], less: Float[np.ndarray, "classes"], cost: Float[np.ndarray, "classes classes"]
) -> tuple[float, Float[np.ndarray, "classes"], Float[np.ndarray, "classes"]]:
    """Solve one program on the labels with mass, and extend the potentials to all labels."""
    sources, targets = np.flatnonzero(more), np.flatnonzero(less)
    if not len(sources) or not len(targets):
        return 0.0, np.zeros(len(cost)), np.zeros(len(cost))
    a, b = more[sources], less[targets]
    mass = a.sum()
    part = np.ascontiguousarray(cost[sources][:, targets])
    _, total, _, potentials, status = _network_simplex()(a / mass, b / b.sum(), part, MOST_PIVOTS, 1)
    if status != OPTIMAL:
        raise GroundCostError("the linear program did not reach its optimum; use transport.solver = 'sinkhorn'")
    f = (cost[:, targets] - potentials).min(axis=1)
    return total * mass, f, (cost - f[:, None]).min(axis=0)


@cache
def _network_simplex() -> Callable[..., Any]:
    """Load POT's compiled solver, twice as fast as `ot.emd`, on first use: POT is as slow to import as torch."""
    from ot.lp.emd_wrap import emd_c

    solver: Callable[..., Any] = emd_c
    return solver
