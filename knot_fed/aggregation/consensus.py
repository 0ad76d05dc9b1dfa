"""From the teachers' answers to the student's targets and weights; shared by runs, audits and sweeps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from knot_fed.aggregation.pooling import agreement_weights, pool_soft_labels
from knot_fed.aggregation.weighting import TeacherAnswers, client_weights
from knot_fed.config import DistillConfig, WeightsConfig
from knot_fed.types import SoftLabels, TeacherAnswer


@dataclass(frozen=True, slots=True, eq=False)
class Consensus:
    """The student's targets: soft labels of each teacher, or the pooled ones as those of one teacher, float64."""

    targets: Float[np.ndarray, "teachers texts classes"]
    weights: Float[np.ndarray, "teachers texts"]  # those of a text sum to the text's own weight
    pooled: SoftLabels  # one distribution per text, whatever the objective


def find_consensus(answers: Sequence[TeacherAnswer], weighting: WeightsConfig, settings: DistillConfig) -> Consensus:
    """Weight and pool the answers, and return the targets that the objective reads.

    Parameters
    ----------
    answers
        In an order that does not depend on who answered first, since floating-point sums depend on it.
    settings
        Read for the objective and the power of the agreement weights.

    Raises
    ------
    ConfigError
        If a plug-in scheme cannot be used.
    """
    stacked = TeacherAnswers.stack(answers)
    weights = client_weights(weighting.scheme, stacked, power=weighting.power)
    pooled = pool_soft_labels(stacked.soft_labels, weights, pooling=weighting.pooling, trim=weighting.trim)
    text_weights = agreement_weights(stacked.soft_labels, weights, pooled, power=settings.agreement)
    if settings.objective == "pooled":
        return Consensus(pooled[None], text_weights[None], pooled)
    return Consensus(stacked.soft_labels, weights * text_weights, pooled)


def consensus_of_pooled(pooled: SoftLabels) -> Consensus:
    """Return the consensus if only pooled soft labels are known, as after a secure sum."""
    return Consensus(pooled[None], np.ones((1, len(pooled))), pooled)
