"""Files with a matrix of distances between labels."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from knot_fed.errors import GroundCostError, RunFolderError
from knot_fed.files import SHARED, write_file
from knot_fed.transport import GroundCost, check_ground_cost

SUFFIXES = (".npy", ".csv")


def is_matrix_file(name: str) -> bool:
    """Return whether the value of a key names a file with a matrix.

    Examples
    --------
    >>> is_matrix_file("costs.csv"), is_matrix_file("semantic")
    (True, False)
    """
    return Path(name).suffix in SUFFIXES


def read_matrix(path: Path) -> np.ndarray:
    """Read a matrix; raises GroundCostError if there is none."""
    try:
        is_array = path.suffix == ".npy"
        matrix: np.ndarray = np.load(path, allow_pickle=False) if is_array else np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError):
        reason = "cannot be read as a matrix; give a .npy or a .csv file of numbers"
        raise GroundCostError(f"{path.name}: {reason}") from None
    return matrix


def read_ground_cost(file: str, names: Sequence[str], *, key: str) -> GroundCost:
    """Read the ground cost that a configuration key names; raises GroundCostError with the file, and its key."""
    matrix = read_matrix(Path(file))
    try:
        return check_ground_cost(matrix, names=names)
    except GroundCostError as error:
        raise GroundCostError(f"{key} = {Path(file).name!r}: {error}") from None


def write_matrix(path: Path, matrix: Float[np.ndarray, "classes classes"], names: Sequence[str]) -> None:
    """Write a matrix as CSV, so that `read_matrix` returns the same numbers; the names stand in a comment.

    Raises
    ------
    RunFolderError
        If the file cannot be written.
    """
    content = io.StringIO()
    np.savetxt(content, matrix, fmt="%.17g", delimiter=",", header=json.dumps(list(names)))
    try:
        write_file(path, content.getvalue().encode(), mode=SHARED)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be written ({error.strerror}); free some space, then resume") from None
