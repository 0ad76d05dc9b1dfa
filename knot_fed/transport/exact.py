"""Exact Kantorovich potentials: for points on a line, from a table of vertices, and by a linear program."""

import numpy as np
import ot
import torch
from jaxtyping import Float

from knot_fed.errors import GroundCostError

CHUNK = 1 << 22
"""Largest number of candidate values held at once by the table solver."""


def line_potentials(
    difference: Float[torch.Tensor, "pairs classes"], positions: Float[torch.Tensor, "classes"]
) -> Float[torch.Tensor, "pairs classes"]:
    """Return potentials for labels on a line, from the sign of the difference of cumulative distributions.

    The cost is the integral of |F_a - F_b|; a potential falls with slope -sign(F_a - F_b) between neighbours.

    Parameters
    ----------
    difference
        Student's minus teacher's distributions; rows sum to 0.
    positions
        Places of the labels, in any order.
    """
    order = torch.argsort(positions)
    gaps = torch.diff(positions[order])
    slopes = -torch.sign(torch.cumsum(difference[:, order], dim=1)[:, :-1]) * gaps
    ordered = torch.nn.functional.pad(torch.cumsum(slopes, dim=1), (1, 0))
    return ordered[:, torch.argsort(order)]


def table_potentials(
    difference: Float[torch.Tensor, "pairs classes"], table: Float[torch.Tensor, "vertices classes"]
) -> Float[torch.Tensor, "pairs classes"]:
    """Return the best potential of a table of vertices for each pair."""
    step = max(1, CHUNK // len(table))
    best = [torch.argmax(part @ table.T, dim=1) for part in torch.split(difference, step)]
    return table[torch.cat(best)]


def program_potentials(
    difference: Float[torch.Tensor, "pairs classes"], matrix: Float[torch.Tensor, "classes classes"]
) -> Float[torch.Tensor, "pairs classes"]:
    """Solve each pair's linear program by POT's network simplex, on the mass that differs.

    Raises
    ------
    GroundCostError
        If the network simplex does not reach the optimum.
    """
    cost = matrix.cpu().numpy()
    rows = [_program_potential(row, cost) for row in difference.detach().cpu().numpy()]
    return torch.from_numpy(np.stack(rows)).to(difference)


def _program_potential(
    difference: Float[np.ndarray, "classes"], cost: Float[np.ndarray, "classes classes"]
) -> Float[np.ndarray, "classes"]:
    more, less = np.maximum(difference, 0.0), np.maximum(-difference, 0.0)
    mass = more.sum()
    if mass <= 1e-12 or less.sum() <= 1e-12:
        return np.zeros(len(cost))
    sources, targets = np.flatnonzero(more), np.flatnonzero(less)
    part = np.ascontiguousarray(cost[np.ix_(sources, targets)])
    _, log = ot.emd(more[sources] / mass, less[targets] / less.sum(), part, numItermax=1_000_000, log=True)
    if log["warning"] is not None:
        raise GroundCostError("the linear program did not reach its optimum; use transport.solver = 'sinkhorn'")
    potential: Float[np.ndarray, classes] = (cost[:, targets] - log["v"][None, :]).min(axis=1)
    return potential
