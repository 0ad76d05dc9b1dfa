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
from knot_fed.transport.ground_cost import DeviceGroundCost

MOST_PIVOTS = 1_000_000
OPTIMAL = 1
CHUNK = 1 << 19
"""Candidate values that the table solver computes at once, so that they stay in the cache."""

Costs = Float[torch.Tensor, "pairs"]
Rows = Float[torch.Tensor, "pairs classes"]
Row = Float[np.ndarray, "classes"]


def cut_solution(difference: Rows, on_device: DeviceGroundCost) -> tuple[Costs, Rows]:
    """Solve on a tree: `W = sum_e length_e |mass of d beyond edge e|`.

    On a line the masses are differences of cumulative distributions (Vallender 1974); on a star (labels at equal
    distances) W is half the distance times `||d||_1`.
    """
    flows = difference @ on_device.membership
    cost: Costs = flows.abs() @ on_device.lengths
    return cost, (torch.sign(flows) * on_device.lengths) @ on_device.membership.T


def table_solution(difference: Rows, on_device: DeviceGroundCost) -> tuple[Costs, Rows]:
    """Maximise `<h, d>` over the vertices that can be optimal for the sign pattern of each difference."""
    _, candidates, places = on_device.vertices.shape
    merged = difference if on_device.merge is None else difference @ on_device.merge
    costs, potentials = [], []
    for chunk in torch.split(merged, max(1, CHUNK // (candidates * places))):
        pattern = ((chunk > 0).to(chunk.dtype) @ on_device.powers).long()  # the bits are the labels with d > 0
        values = torch.bmm(on_device.vertices.index_select(0, pattern), chunk[:, :, None])[:, :, 0]  # <h, d>
        cost, winner = values.max(dim=1)
        costs.append(cost)
        potentials.append(on_device.vertices.view(-1, places).index_select(0, pattern * candidates + winner))
    best = torch.cat(potentials) if len(potentials) > 1 else potentials[0]
    return torch.cat(costs), best if on_device.merge is None else best @ on_device.merge.T


def program_solution(a: Rows, b: Rows, on_device: DeviceGroundCost) -> tuple[Costs, Rows, Rows]:
    """Solve each pair's linear program by POT's network simplex (Bonneel et al. 2011), in float64 on the CPU.

    Rows may have any equal masses. Returns the cost and the potentials of `a` and `b`; raises GroundCostError if the
    network simplex does not reach the optimum.
    """
    if not len(a):
        return a[:, 0], a, b
    cost = on_device.matrix.double().cpu().numpy()
    firsts, seconds = (side.detach().double().cpu().numpy() for side in (a, b))
    solved = [_program(first, second, cost) for first, second in zip(firsts, seconds, strict=True)]
    totals, f, g = (torch.from_numpy(np.array(column)).to(a) for column in zip(*solved, strict=True))
    return totals, f, g


def _program(more: Row, less: Row, cost: Float[np.ndarray, "classes classes"]) -> tuple[float, Row, Row]:
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
