"""Distances between the directions of vectors, and points that have given distances."""

import numpy as np
from jaxtyping import Float

from knot_fed.errors import GroundCostError

NEGLIGIBLE = 1e-10
"""Share of the largest eigenvalue up to which an axis is left out."""


def unit_distances(
    vectors: Float[np.ndarray, "classes dimensions"], *, source: str
) -> Float[np.ndarray, "classes classes"]:
    """Return the Euclidean distances of the vectors at length 1, divided by the largest one.

    `C_ab = |u_a - u_b| / max = sqrt(2 - 2 cos(v_a, v_b)) / max`: a metric, since it is the distance of points. A vector
    of zeros has no direction and is taken as orthogonal to all others.

    Parameters
    ----------
    source
        What the vectors are, for the message.

    Raises
    ------
    GroundCostError
        If all vectors have one direction, or a number is not finite.

    Examples
    --------
    >>> unit_distances(np.array([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0]]), source="vectors").round(3)[0].tolist()
    [0.0, 0.707, 1.0]
    """
    from scipy.spatial.distance import cdist  # slow to import

    if not np.isfinite(vectors).all():
        raise GroundCostError(f"{source} are not all finite; use another transport.cost")
    lengths = np.linalg.norm(vectors, axis=1)
    empty = lengths <= 0
    units = vectors / np.where(empty, 1.0, lengths)[:, None]
    distances: Float[np.ndarray, "classes classes"] = cdist(units, units)
    distances[empty] = np.sqrt(2)
    distances[:, empty] = np.sqrt(2)
    np.fill_diagonal(distances, 0.0)
    largest = float(distances.max())
    if largest <= np.sqrt(np.finfo(np.float64).eps):
        raise GroundCostError(f"{source} tell no two labels apart; use another transport.cost")
    return distances / largest


def points_with(
    distances: Float[np.ndarray, "classes classes"],
) -> tuple[Float[np.ndarray, "classes dimensions"], float]:
    """Return points with these distances, and the largest error of a distance as a share of the largest distance.

    Classical scaling (Torgerson 1952): the eigenvectors of the doubly centred `-D^2 / 2`, times the roots of their
    eigenvalues, are exact if there are such points. If there are none, negative eigenvalues are left out, and the
    points are farther apart than asked.

    Examples
    --------
    >>> points, error = points_with(np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]]))
    >>> points.shape, error < 1e-7
    ((3, 1), True)
    """
    from scipy.spatial.distance import cdist

    labels = len(distances)
    centring = np.eye(labels) - 1 / labels
    values, vectors = np.linalg.eigh(-centring @ distances**2 @ centring / 2)
    kept = np.flatnonzero(values > NEGLIGIBLE * values[-1])[::-1]
    points: Float[np.ndarray, "classes dimensions"] = vectors[:, kept] * np.sqrt(values[kept])
    points = points * np.sign(points[np.abs(points).argmax(axis=0), np.arange(len(kept))])
    error = np.abs(cdist(points, points) - distances).max() / distances.max()
    return points, float(error)
