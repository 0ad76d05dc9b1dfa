"""The ground cost that `transport.cost` names."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from knot_fed.config import RunConfig
from knot_fed.config.choices import GROUND_COSTS, LEARNT_COSTS
from knot_fed.errors import ConfigError, GroundCostError
from knot_fed.geometry.learnt import confusion_vectors, kernel_vectors
from knot_fed.geometry.matrix_file import is_matrix_file, read_ground_cost
from knot_fed.geometry.names import name_distances
from knot_fed.geometry.vectors import unit_distances
from knot_fed.models import TextClassifier, output_features
from knot_fed.transport import GroundCost, check_ground_cost, make_ground_cost
from knot_fed.types import SoftLabels, Text

HF = "hf:"


def encoder_of(config: RunConfig) -> str:
    """Return the encoder that reads label names: `transport.encoder`, or else the run's own `hf:` model.

    Raises
    ------
    ConfigError
        If there is neither.
    """
    named = config.transport.encoder
    if named and not named.startswith(HF):
        raise ConfigError(f"run configuration: transport.encoder = {named!r} is no hf:<hub id or absolute folder>")
    for model in (named, config.model, config.student_model):
        if model.startswith(HF):
            return model
    key = "labels.geometry" if config.transport.cost != "embedding" else "transport.cost"
    raise ConfigError(
        f"run configuration: {key} = 'embedding' reads the label names with an encoder, and model = {config.model!r} is"
        " none; give transport.encoder = 'hf:<hub id or absolute folder>'"
    )


def configured_ground_cost(config: RunConfig) -> GroundCost:
    """Prepare the ground cost of `transport.cost`, a name or a file.

    Raises
    ------
    GroundCostError
        If it is invalid, or learnt from the answers, which are not known here.
    ConfigError, ModelError
        If the label names are to be read, and there is no encoder, or it cannot be used.
    """
    named, labels = config.transport.cost, config.label_space()
    if is_matrix_file(named):
        return read_ground_cost(named, labels.names, key="transport.cost")
    if named not in GROUND_COSTS:
        raise GroundCostError(f"no ground cost {named!r}; use {', '.join(GROUND_COSTS)}, or a file with a matrix")
    if named == "embedding":
        return check_ground_cost(name_distances(labels.names, encoder_of(config)), names=labels.names)
    if named in LEARNT_COSTS:
        raise GroundCostError(f"transport.cost = {named!r} is learnt from the answers; read ground-cost.csv of a run")
    return make_ground_cost(named, labels)


def known_ground_cost(config: RunConfig) -> GroundCost:
    """Return the ground cost as far as it is known before any answer: for a learnt one, that of the labels."""
    if config.transport.cost in LEARNT_COSTS:
        return make_ground_cost("augmented", config.label_space())
    return configured_ground_cost(config)


def learnt_ground_cost(
    config: RunConfig, pooled: SoftLabels, student: TextClassifier, texts: Sequence[Text]
) -> GroundCost:
    """Learn the ground cost of `transport.cost` from the first round's pooled soft labels; no label is read.

    Parameters
    ----------
    student
        Before its distillation; `cka` reads its features of `texts`.

    Raises
    ------
    GroundCostError
        If the soft labels tell no two labels apart, or the student has no known output layer.
    """
    labels = config.label_space()
    found = _learnt_distances(config.transport.cost, pooled, student, texts)
    return check_ground_cost(found, names=labels.names, distinct=False)


def _learnt_distances(
    named: str, pooled: SoftLabels, student: TextClassifier, texts: Sequence[Text]
) -> Float[np.ndarray, "classes classes"]:
    if named == "confusion":
        return unit_distances(confusion_vectors(pooled), source="the pooled soft labels")
    features = output_features(student, texts)
    if features is None:
        raise GroundCostError(
            f"transport.cost = 'cka' reads what enters the student's output layer, and {student.spec.name} names none;"
            " use confusion, or let output_layer return it"
        )
    return unit_distances(kernel_vectors(features, pooled), source="the student's features")
