"""Weighting and pooling of the teachers' answers."""

from knot_fed.aggregation.consensus import Consensus, check_texts_teach, consensus_of_pooled, find_consensus
from knot_fed.aggregation.pooling import POOLINGS, agreement_weights, middle_of_teachers, pool_soft_labels, sharpen
from knot_fed.aggregation.weighting import (
    SCHEMES,
    SCORE_BOUNDS,
    TeacherAnswers,
    client_weights,
    find_scheme,
    selects_texts,
    single_weights,
    weight_bound,
)

__all__ = [
    "POOLINGS",
    "SCHEMES",
    "SCORE_BOUNDS",
    "Consensus",
    "TeacherAnswers",
    "agreement_weights",
    "check_texts_teach",
    "client_weights",
    "consensus_of_pooled",
    "find_consensus",
    "find_scheme",
    "middle_of_teachers",
    "pool_soft_labels",
    "selects_texts",
    "sharpen",
    "single_weights",
    "weight_bound",
]
