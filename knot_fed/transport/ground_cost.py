"""Ground costs: how far apart two labels are in meaning, as a metric."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from knot_fed.errors import GroundCostError
from knot_fed.labels import LabelSpace
from knot_fed.transport.table import potential_table

TOLERANCE = 1e-9
NAMED = ("semantic", "augmented", "zero-one")


@dataclass(frozen=True, slots=True, eq=False)
class GroundCost:
    """A checked metric between labels, with what the exact solvers need; make it with `check_ground_cost`.

    Parameters
    ----------
    matrix
        float64 distances between labels.
    line
        Positions of the labels, where the metric is that of points on a line; else None.
    table
        Vertices of the polytope of 1-Lipschitz potentials, where there are few labels; else None.
    """

    matrix: Float[torch.Tensor, "classes classes"]
    line: Float[torch.Tensor, "classes"] | None
    table: Float[torch.Tensor, "vertices classes"] | None

    @property
    def diameter(self) -> float:
        """The largest distance between two labels."""
        return float(self.matrix.max())


def make_ground_cost(name: str, labels: LabelSpace) -> GroundCost:
    """Build a ground cost from label coordinates `x`.

    Parameters
    ----------
    name
        `semantic`: `||x_i - x_j||`; `augmented`: the same with a one-hot vector appended to each coordinate
        (`sqrt(2 + ||x_i - x_j||^2)` off the diagonal: the public code of KNOT, COLING 2022); `zero-one`: 1 off the
        diagonal.
    labels
        The label space.

    Raises
    ------
    GroundCostError
        If there is no such ground cost, or all labels share one place.

    Examples
    --------
    >>> make_ground_cost("semantic", LabelSpace.preset("nli")).matrix[0].tolist()
    [0.0, 1.0, 2.0]
    """
    if name not in NAMED:
        raise GroundCostError(f"no ground cost {name!r}; use {', '.join(NAMED)}, or a file with a matrix")
    distances = np.linalg.norm(labels.coordinates[:, None] - labels.coordinates[None], axis=2)
    apart = 1.0 - np.eye(len(labels))
    matrices = {"semantic": distances, "augmented": np.sqrt(2 * apart + distances**2), "zero-one": apart}
    return check_ground_cost(matrices[name], names=labels.names)


def check_ground_cost(matrix: np.ndarray, *, names: Sequence[str]) -> GroundCost:
    """Check that a matrix is a metric on the labels (two labels may share a place).

    Parameters
    ----------
    matrix
        Distances, one row and column for each label.
    names
        Label names, for the messages.

    Raises
    ------
    GroundCostError
        If the matrix does not fit the labels, is not finite, not symmetric, not zero on the diagonal and
        non-negative off it, breaks the triangle inequality, or is zero throughout.
    """
    if matrix.shape != (len(names), len(names)):
        raise GroundCostError(
            f"ground cost has shape {matrix.shape} for {len(names)} labels; give one row and column each"
        )
    matrix = matrix.astype(np.float64)
    _refuse(~np.isfinite(matrix), "is not finite", names)
    scale = np.abs(matrix).max()
    tolerance = TOLERANCE * scale
    _refuse(np.diag(np.abs(np.diag(matrix)) > tolerance), "is not 0 on the diagonal", names)
    _refuse(matrix < -tolerance, "is negative", names)
    _refuse(np.abs(matrix - matrix.T) > tolerance, "is not symmetric", names)
    through = (matrix[:, :, None] + matrix[None, :, :]).min(axis=1)
    _refuse(matrix > through + tolerance, "breaks the triangle inequality: a detour is shorter", names)
    if scale == 0:
        raise GroundCostError(
            "ground cost is 0 between all labels, nothing can be learnt from it; spread the coordinates"
        )
    metric = (matrix + matrix.T) / 2
    np.fill_diagonal(metric, 0.0)
    line = _positions_on_a_line(metric)
    table = None if line is not None else potential_table(metric)
    return GroundCost(
        matrix=torch.from_numpy(metric),
        line=None if line is None else torch.from_numpy(line),
        table=None if table is None else torch.from_numpy(table),
    )


def _refuse(broken: np.ndarray, rule: str, names: Sequence[str]) -> None:
    if broken.any():
        row, column = (int(place) for place in np.argwhere(broken)[0])
        raise GroundCostError(f"ground cost between {names[row]!r} and {names[column]!r} {rule}; give a metric")


def _positions_on_a_line(metric: Float[np.ndarray, "classes classes"]) -> Float[np.ndarray, "classes"] | None:
    end = int(np.unravel_index(np.argmax(metric), metric.shape)[0])
    positions = metric[end]
    apart = np.abs(positions[:, None] - positions[None])
    return positions.copy() if np.allclose(apart, metric, rtol=0, atol=TOLERANCE * metric.max()) else None
