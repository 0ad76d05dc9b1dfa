"""The vertices of the polytope of 1-Lipschitz potentials, by sign pattern, for few labels.

By Kantorovich and Rubinstein, the transport cost between a and b over a metric C is the maximum of <h, a - b> over
potentials with h_i - h_j <= C_ij. It is attained at a vertex; a generic metric on L points has C(2L - 2, L - 1) of them
(Gordon and Petrov 2017, arXiv 1608.06848). If a - b has k positive entries, only C(L - 2, k - 1) can be optimal: those
whose tight constraints lead from positive entries to the others.
"""

from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from jaxtyping import Float, Int

MOST_LABELS = 10
COINCIDENT = 1e-7
JITTERS = (1e-9, 1e-8, 1e-7, 1e-6)
SLACK = 1e-6

Metric = Float[np.ndarray, "classes classes"]
Vertices = Float[np.ndarray, "vertices classes"]
Edges = Int[np.ndarray, "vertices edges"]
Table = Float[np.ndarray, "patterns candidates classes"]


@dataclass(frozen=True, slots=True, eq=False)
class VertexTable:
    """Candidate potentials for each sign pattern of `a - b`, numbered `sum_i 2^i [a_i > b_i]`."""

    vertices: Float[torch.Tensor, "patterns candidates places"]  # float64; padded with the first candidate
    merge: Float[torch.Tensor, "classes places"] | None  # 0/1, sums the mass of coincident labels; None: all distinct


def vertex_table(metric: Metric, *, most_labels: int = 8) -> VertexTable | None:
    """Enumerate the vertices, and certify their number for each sign pattern.

    Degenerate metrics (labels on a line, a grid, equal distances) have fewer vertices than generic ones, which breaks
    the enumeration. A jitter makes the metric generic; each vertex is then recomputed from its tight constraints under
    the true metric. Labels nearer than 1e-7 of the diameter are merged.

    Returns None if there are more than `most_labels` (at most 10) distinct labels, or if no jitter up to 1e-6 of the
    diameter passes the certificate. Takes less than 0.1 s up to 8 labels, and seconds at 10.
    """
    merge = _merge(metric)
    places = merge.argmax(axis=0)
    distinct = metric[np.ix_(places, places)]
    if not 2 <= len(distinct) <= min(most_labels, MOST_LABELS):
        return None
    scale = distinct.max()
    for jitter in JITTERS:
        vertices = _certified_vertices(distinct / scale, jitter)
        if vertices is not None:
            apart = len(places) == len(metric)
            return VertexTable(torch.from_numpy(vertices * scale), None if apart else torch.from_numpy(merge))
    return None


def _merge(metric: Metric) -> Float[np.ndarray, "classes places"]:
    first = (metric <= COINCIDENT * metric.max()).argmax(axis=1)
    merge: Float[np.ndarray, "classes places"] = (first[:, None] == np.unique(first)[None, :]).astype(np.float64)
    return merge


def _certified_vertices(metric: Metric, jitter: float) -> Table | None:
    classes = len(metric)
    constraints = _tight_constraints(metric, jitter)
    if constraints is None:
        return None
    sources, sinks = constraints
    positive = np.zeros((len(sources), classes), dtype=bool)
    positive[np.arange(len(sources))[:, None], sources] = True
    negative = np.zeros_like(positive)
    negative[np.arange(len(sinks))[:, None], sinks] = True
    if not (positive ^ negative).all():
        return None
    potentials = _feasible(_solve_trees(metric, sources, sinks), positive, metric)
    if potentials is None:
        return None
    return _by_pattern(potentials, (positive * 2 ** np.arange(classes)).sum(axis=1), classes)


def _tight_constraints(metric: Metric, jitter: float) -> tuple[Edges, Edges] | None:
    """Return the ends i, j of the constraints `h_i - h_j <= C_ij` that are tight at each vertex; None if degenerate."""
    from scipy.spatial import HalfspaceIntersection, QhullError  # loads slowly, and a table is made once

    classes = len(metric)
    rows, columns = np.nonzero(~np.eye(classes, dtype=bool))
    noise = np.random.default_rng(0).random((classes, classes))
    generic = metric + jitter * (1 + (noise + noise.T) / 2)
    if classes == 2:
        return np.array([[0], [1]]), np.array([[1], [0]])
    halfspaces = np.zeros((len(rows), classes + 1))
    halfspaces[np.arange(len(rows)), rows] = 1.0
    halfspaces[np.arange(len(rows)), columns] = -1.0
    halfspaces[:, -1] = -generic[rows, columns]
    try:
        facets = np.array(HalfspaceIntersection(halfspaces[:, 1:], np.zeros(classes - 1)).dual_facets)
    except (QhullError, ValueError):  # too degenerate, or vertices with different numbers of tight constraints
        return None
    if facets.ndim != 2 or facets.shape[1] != classes - 1:  # more tight constraints than a generic metric has
        return None
    return rows[facets], columns[facets]


def _solve_trees(metric: Metric, sources: Edges, sinks: Edges) -> Vertices:
    """Solve `h_i - h_j = C_ij` on each vertex's spanning tree of tight constraints, with h_0 = 0."""
    count, edges = sources.shape
    system = np.zeros((count, edges, edges + 1))
    place = (np.arange(count)[:, None], np.arange(edges)[None, :])
    system[(*place, sources)] = 1.0
    system[(*place, sinks)] = -1.0
    rest = np.linalg.solve(system[:, :, 1:], metric[sources, sinks][:, :, None])[:, :, 0]
    return np.concatenate([np.zeros((count, 1)), rest], axis=1)


def _feasible(potentials: Vertices, positive: np.ndarray, metric: Metric) -> Vertices | None:
    """Lower positive sides that the jitter left infeasible; None if that changes more than rounding."""
    sinks_only = np.where(positive, np.inf, potentials)
    lowered = np.where(positive, (metric[None] + sinks_only[:, None, :]).min(axis=2), potentials)
    if np.abs(lowered - potentials).max() > SLACK:
        return None
    centred: Vertices = lowered - (lowered.max(axis=1) + lowered.min(axis=1))[:, None] / 2
    return centred


def _by_pattern(potentials: Vertices, patterns: Int[np.ndarray, "vertices"], classes: int) -> Table | None:
    most = comb(classes - 2, (classes - 2) // 2)
    table = np.zeros((2**classes, most, classes))
    order = np.argsort(patterns, kind="stable")
    starts = np.searchsorted(patterns[order], np.arange(2**classes + 1))
    for pattern in range(1, 2**classes - 1):
        candidates = potentials[order[starts[pattern] : starts[pattern + 1]]]
        if len(candidates) != comb(classes - 2, pattern.bit_count() - 1):
            return None
        table[pattern] = candidates[0]
        table[pattern, : len(candidates)] = candidates
    return table
