"""All vertices of the polytope of 1-Lipschitz potentials, for a few labels.

By Kantorovich and Rubinstein, the transport cost between distributions a and b over a metric C is the maximum of
<f, a - b> over potentials f with f_i - f_j <= C_ij. The maximum is at a vertex, so a table of vertices gives value
and gradient exactly, without iterations.
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial import HalfspaceIntersection, QhullError

MAX_CLASSES = 7
SMALLEST_SHARE = 1e-4


def potential_table(metric: Float[np.ndarray, "classes classes"]) -> Float[np.ndarray, "vertices classes"] | None:
    """Enumerate the vertices, with the first potential fixed at 0.

    Parameters
    ----------
    metric
        A metric between labels.

    Returns
    -------
    table
        One potential in each row; None when there are more than seven labels, two of them nearly coincide, or a
        vertex misses its constraints by more than rounding.
    """
    classes = len(metric)
    apart = metric[~np.eye(classes, dtype=bool)]
    if classes > MAX_CLASSES or apart.min() < SMALLEST_SHARE * apart.max():
        return None
    scaled = metric / apart.max()
    try:
        vertices = _vertices(scaled)
    except QhullError:
        return None
    slack = scaled[None] - (vertices[:, :, None] - vertices[:, None, :])
    if slack.min() < -1e-9 or not np.isfinite(vertices).all():
        return None
    distinct: Float[np.ndarray, "vertices classes"] = np.unique(np.round(vertices, 12), axis=0) * apart.max()
    return distinct


def _vertices(metric: Float[np.ndarray, "classes classes"]) -> Float[np.ndarray, "vertices classes"]:
    classes = len(metric)
    rows, columns = np.nonzero(~np.eye(classes, dtype=bool))
    halfspaces = np.zeros((len(rows), classes + 1))
    halfspaces[np.arange(len(rows)), rows] = 1.0
    halfspaces[np.arange(len(rows)), columns] = -1.0
    halfspaces[:, -1] = -metric[rows, columns]
    if classes == 2:
        return np.array([[0.0, metric[0, 1]], [0.0, -metric[0, 1]]])
    free = HalfspaceIntersection(halfspaces[:, 1:], np.zeros(classes - 1)).intersections
    return np.concatenate([np.zeros((len(free), 1)), free], axis=1)
