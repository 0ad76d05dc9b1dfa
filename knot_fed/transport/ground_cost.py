"""Ground costs: validated distances between labels, with the data that the solvers need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from knot_fed.errors import GroundCostError
from knot_fed.labels import LabelSpace, label_distances
from knot_fed.transport.solvers.table import VertexTable, vertex_table

TOLERANCE = 1e-9
LARGEST_COST = 1e12
"""The largest cost lies between this and its inverse: optimisers square gradients in float32."""

Matrix = Float[np.ndarray, "classes classes"]


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """A metric on a tree: `C_ij = sum_e lengths_e |membership_ie - membership_je|`."""

    shape: Literal["line", "star"]  # labels on a line, or at equal distances
    membership: Float[torch.Tensor, "classes edges"]  # 1 if a label lies beyond the edge, else 0
    lengths: Float[torch.Tensor, "edges"]  # > 0


@dataclass(frozen=True, slots=True, eq=False)
class DeviceGroundCost:
    """A ground cost's tensors on one device, in one precision; empty if they do not apply."""

    matrix: Float[torch.Tensor, "classes classes"]
    membership: Float[torch.Tensor, "classes edges"]
    lengths: Float[torch.Tensor, "edges"]
    vertices: Float[torch.Tensor, "patterns candidates places"]
    padded: Float[torch.Tensor, "patterns candidates width"]  # vertices, with zeros up to a power of two of labels
    powers: Float[torch.Tensor, "places"]
    merge: Float[torch.Tensor, "classes places"] | None


@dataclass(frozen=True, slots=True, eq=False)
class GroundCost:
    """A validated ground cost. Build it once with `make_ground_cost` or `check_ground_cost` and reuse it."""

    matrix: Float[torch.Tensor, "classes classes"]  # float64, symmetric, zero on the diagonal
    names: tuple[str, ...]  # of labels, for messages
    metric: bool  # whether the triangle inequality holds
    cuts: Cuts | None  # the metric as a tree, if labels lie on a line or at equal distances
    table: VertexTable | None  # vertices of the polytope of 1-Lipschitz potentials, if there are few labels
    _placed: dict[tuple[torch.device, torch.dtype], DeviceGroundCost] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def diameter(self) -> float:
        """The largest cost between two labels."""
        return float(self.matrix.max())

    def to(self, device: torch.device, dtype: torch.dtype) -> DeviceGroundCost:
        """Return the tensors on a device, in float32 or float64; cached."""
        key = (device, dtype)
        if key in self._placed:
            return self._placed[key]
        cuts = self.cuts or Cuts("line", torch.zeros(len(self), 0), torch.zeros(0))
        table = self.table or VertexTable(torch.zeros(0, 0, 0), None)
        vertices = table.vertices.to(device, dtype).contiguous()
        places = vertices.shape[2]
        self._placed[key] = DeviceGroundCost(
            matrix=self.matrix.to(device, dtype),
            membership=cuts.membership.to(device, dtype),
            lengths=cuts.lengths.to(device, dtype),
            vertices=vertices,
            padded=torch.nn.functional.pad(vertices, (0, (1 << max(0, places - 1).bit_length()) - places)),
            powers=(2.0 ** torch.arange(places)).to(device, dtype),
            merge=None if table.merge is None else table.merge.to(device, dtype),
        )
        return self._placed[key]


def _zero_one(labels: LabelSpace) -> Matrix:
    return 1.0 - np.eye(len(labels))


def _cosine(labels: LabelSpace) -> Matrix:
    lengths = np.linalg.norm(labels.coordinates, axis=1)
    if not lengths.all():
        at = labels.names[int(np.argmin(lengths))]
        raise GroundCostError(f"label {at!r} lies at the origin, where cosine has no direction; use 'semantic'")
    return label_distances(labels.coordinates / lengths[:, None])


GROUND_COSTS: Mapping[str, Callable[[LabelSpace], Matrix]] = {
    "semantic": lambda labels: label_distances(labels.coordinates),
    "augmented": lambda labels: np.sqrt(2 * _zero_one(labels) + label_distances(labels.coordinates) ** 2),
    "zero-one": _zero_one,
    "cosine": _cosine,
}
"""Cost matrices by the names of `transport.cost`, for labels with coordinates."""


def make_ground_cost(name: str, labels: LabelSpace, *, distinct: bool = True) -> GroundCost:
    """Build a ground cost from label coordinates `x`.

    Parameters
    ----------
    name
        `semantic`: `||x_i - x_j||`. `augmented`: the same with a one-hot vector appended to each coordinate,
        `sqrt(2 + ||x_i - x_j||^2)` off the diagonal (the public code of KNOT, COLING 2022). `zero-one`: 1 off the
        diagonal, so that the cost is the total variation distance. `cosine`: `sqrt(2 - 2 cos(x_i, x_j))`, for
        coordinates that are embeddings. Labels without coordinates always get `zero-one`.
    distinct
        Whether to refuse labels with equal coordinates.

    Raises
    ------
    GroundCostError
        If the name is unknown, labels coincide, or `cosine` meets a label at the origin.

    Examples
    --------
    >>> make_ground_cost("semantic", LabelSpace.preset("nli")).matrix[0].tolist()
    [0.0, 1.0, 2.0]
    """
    if name not in GROUND_COSTS:
        raise GroundCostError(f"no ground cost {name!r}; use {', '.join(GROUND_COSTS)}, or a file with a matrix")
    matrix = GROUND_COSTS[name if labels.ordered else "zero-one"](labels)
    return check_ground_cost(matrix, names=labels.names, distinct=distinct)


def check_ground_cost(
    matrix: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    metric: bool = True,
    distinct: bool = True,
    most_table_labels: int = 8,
) -> GroundCost:
    """Validate a cost matrix, and prepare the data that the exact solvers need.

    Parameters
    ----------
    matrix
        Costs in the unit of the loss, one row and column per label.
    names
        Label names, for messages; None: their indices.
    metric
        Whether to require the triangle inequality. Without it only Sinkhorn and the linear program apply, and mass
        that both sides share may move too.
    distinct
        Whether to require costs > 0 off the diagonal.
    most_table_labels
        Enumerate vertices for up to this many labels, at most 10; above 8 that takes seconds.

    Raises
    ------
    GroundCostError
        If the matrix is not numeric and finite, not square with one row per name, or breaks one of the rules; the
        message names the pair of labels.

    Examples
    --------
    >>> check_ground_cost([[0, 1, 3], [1, 0, 2], [3, 2, 0]]).cuts.shape
    'line'
    """
    costs, known = _read_costs(matrix, names)
    tolerance = TOLERANCE * np.abs(costs).max()
    off_diagonal = ~np.eye(len(known), dtype=bool)
    _refuse(~off_diagonal & (np.abs(costs) > tolerance), "is not 0 on the diagonal", known)
    _refuse(costs < -tolerance, "is negative", known)
    _refuse(np.abs(costs - costs.T) > tolerance, "is not symmetric", known)
    if distinct:
        _refuse(off_diagonal & (costs <= tolerance), "is 0 off the diagonal (distinct=False allows it)", known)
    if metric:
        detours = np.stack([(row[:, None] + costs).min(axis=0) for row in costs])
        _refuse(costs > detours + tolerance, "breaks the triangle inequality: a detour is shorter", known)
    clean = np.where(off_diagonal, np.maximum((costs + costs.T) / 2, 0.0), 0.0)
    cuts = _cuts(clean) if metric else None
    table = vertex_table(clean, most_labels=most_table_labels) if metric else None
    return GroundCost(torch.from_numpy(clean), known, metric, cuts, table)


def _read_costs(matrix: ArrayLike, names: Sequence[str] | None) -> tuple[Matrix, tuple[str, ...]]:
    """Return finite float64 costs of a fitting shape and range, and the names of their labels."""
    try:
        if np.iscomplexobj(matrix):
            raise TypeError("its numbers are complex")
        costs = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GroundCostError(f"ground cost cannot be read as a matrix of real numbers ({error})") from None
    known = tuple(names) if names is not None else tuple(str(label) for label in range(len(np.atleast_1d(costs))))
    if not costs.size or costs.shape != (len(known), len(known)):
        raise GroundCostError(
            f"ground cost has shape {costs.shape} for {len(known)} labels; give one row and column each"
        )
    _refuse(~np.isfinite(costs), "is not finite", known)
    largest = np.abs(costs).max()
    if largest and not 1 / LARGEST_COST <= largest <= LARGEST_COST:
        raise GroundCostError(
            f"ground cost up to {largest:g} would leave the range of float32 in training; scale it to at most"
            f" {LARGEST_COST:g} and at least {1 / LARGEST_COST:g}"
        )
    return costs, known


def _refuse(broken: np.ndarray, rule: str, names: Sequence[str]) -> None:
    if broken.any():
        row, column = (int(place) for place in np.argwhere(broken)[0])
        raise GroundCostError(f"ground cost between {names[row]!r} and {names[column]!r} {rule}; give another matrix")


def _cuts(metric: Matrix) -> Cuts | None:
    """Recognise labels on a line and labels at equal distances."""
    close = TOLERANCE * metric.max()
    positions = metric[int(np.unravel_index(np.argmax(metric), metric.shape)[0])]
    if np.allclose(np.abs(positions[:, None] - positions[None]), metric, rtol=0, atol=close):
        order = np.sort(positions)  # each gap between neighbours is an edge
        edges = np.flatnonzero(np.diff(order) > 0)
        beyond = (positions[:, None] > order[None, edges]).astype(np.float64)
        return Cuts("line", torch.from_numpy(beyond), torch.from_numpy(np.diff(order)[edges]))
    distance = metric.max()
    if np.allclose(metric, distance * (1 - np.eye(len(metric))), rtol=0, atol=close):
        lengths = np.full(len(metric), distance / 2)  # one edge from each label to the centre
        return Cuts("star", torch.eye(len(metric), dtype=torch.float64), torch.from_numpy(lengths))
    return None
