"""Distances between labels: from their names, from the answers, from a file, and the geometry of the metrics."""

from knot_fed.geometry.costs import configured_ground_cost, encoder_of, known_ground_cost, learnt_ground_cost
from knot_fed.geometry.learnt import confusion_vectors, kernel_vectors
from knot_fed.geometry.matrix_file import read_matrix, write_matrix
from knot_fed.geometry.names import as_words
from knot_fed.geometry.spaces import describe_geometry, evaluation_labels, local_labels
from knot_fed.geometry.vectors import points_with, unit_distances

__all__ = [
    "as_words",
    "configured_ground_cost",
    "confusion_vectors",
    "describe_geometry",
    "encoder_of",
    "evaluation_labels",
    "kernel_vectors",
    "known_ground_cost",
    "learnt_ground_cost",
    "local_labels",
    "points_with",
    "read_matrix",
    "unit_distances",
    "write_matrix",
]
