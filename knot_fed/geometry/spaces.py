"""The geometry in which Semantic Distance and W1 are measured."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from knot_fed.config import RunConfig
from knot_fed.errors import GroundCostError
from knot_fed.geometry.costs import encoder_of
from knot_fed.geometry.matrix_file import is_matrix_file, read_ground_cost
from knot_fed.geometry.names import name_distances
from knot_fed.geometry.vectors import points_with
from knot_fed.labels import LabelSpace

EXACT = 1e-6
"""Error of a distance, as a share of the largest, that is rounding."""


def local_labels(config: RunConfig) -> LabelSpace | None:
    """Return the label space of the metrics as every client knows it; None: the server sends its coordinates."""
    space = config.label_space()
    if config.geometry == "coordinates":
        return space
    return LabelSpace(space.names, np.zeros((len(space), 0))) if config.geometry == "equal" else None


def evaluation_labels(config: RunConfig) -> LabelSpace:
    """Return the label space in which SD and W1 are measured: names, and points with the distances of the geometry.

    Raises
    ------
    GroundCostError
        If the geometry's name is unknown, or its file has no metric.
    ConfigError, ModelError
        If the label names are to be read, and there is no encoder, or it cannot be used.
    """
    known = local_labels(config)
    return known if known is not None else LabelSpace(config.label_space().names, _points(config)[0])


def describe_geometry(config: RunConfig) -> str:
    """Say in which geometry SD and W1 are measured, for summaries and tables.

    Examples
    --------
    >>> describe_geometry(RunConfig()), describe_geometry(RunConfig(task="topics", labels={"names": "news, sport"}))
    ("the labels' coordinates", 'equal distances')
    """
    named = config.geometry
    if named == "coordinates":
        return "the labels' coordinates"  # as in knot_fed.runs.tables
    if named == "equal":
        return "equal distances"
    if named == "embedding":
        encoder = encoder_of(config).removeprefix("hf:")
        return f"embedding of the label names by {Path(encoder).name if Path(encoder).is_absolute() else encoder}"
    error = _points(config)[1]
    told = "" if error <= EXACT else f", by points whose distances differ by up to {100 * error:.2g} % of the largest"
    return f"{Path(named).name}{told}"


def _points(config: RunConfig) -> tuple[Float[np.ndarray, "classes dimensions"], float]:
    names, named = config.label_space().names, config.geometry
    if named == "embedding":
        return points_with(name_distances(names, encoder_of(config)))
    if not is_matrix_file(named):
        raise GroundCostError(
            f"labels.geometry = {named!r}; use auto, equal, embedding, or a .npy or .csv file with a matrix"
        )
    return points_with(read_ground_cost(named, names, key="labels.geometry").matrix.numpy())
