"""Configuration of a run and of a node: the schema with its defaults, and the ways to write it."""

from knot_fed.config.node import NodeConfig
from knot_fed.config.parsing import Scalar, check_known_keys, flattened, known_keys, nested
from knot_fed.config.run import MOST_STEPS, RunConfig
from knot_fed.config.sections import (
    CONFIDENCES,
    LEAST_DELTA,
    LEAST_EPSILON,
    LONGEST_LIST,
    LOSSES,
    MOST_CLIENTS_IN_SUM,
    MOST_DELTA,
    MOST_EPSILON,
    SCHEMES,
    DataConfig,
    DistillConfig,
    LabelsConfig,
    Mechanism,
    PrivacyConfig,
    TeacherConfig,
    Trainable,
    WeightsConfig,
)

__all__ = [
    "CONFIDENCES",
    "LEAST_DELTA",
    "LEAST_EPSILON",
    "LONGEST_LIST",
    "LOSSES",
    "MOST_CLIENTS_IN_SUM",
    "MOST_DELTA",
    "MOST_EPSILON",
    "MOST_STEPS",
    "SCHEMES",
    "DataConfig",
    "DistillConfig",
    "LabelsConfig",
    "Mechanism",
    "NodeConfig",
    "PrivacyConfig",
    "RunConfig",
    "Scalar",
    "TeacherConfig",
    "Trainable",
    "WeightsConfig",
    "check_known_keys",
    "flattened",
    "known_keys",
    "nested",
]
