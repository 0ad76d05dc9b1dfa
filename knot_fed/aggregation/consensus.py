"""From the teachers' answers to the student's targets and their weights: the one way for runs, audits and sweeps."""

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
    """What the student learns from.

    Parameters
    ----------
    targets
        Soft labels of each teacher, or the pooled ones as those of one teacher, float64.
    weights
        How much each of the targets counts on each text. Those of a text sum to 1 times how much the text counts.
    pooled
        One distribution for each text, whatever the objective.
    """

    targets: Float[np.ndarray, "teachers texts classes"]
    weights: Float[np.ndarray, "teachers texts"]
    pooled: SoftLabels


def find_consensus(answers: Sequence[TeacherAnswer], weighting: WeightsConfig, settings: DistillConfig) -> Consensus:
    """Weigh the answers, pool them, and keep what the objective reads.

    Parameters
    ----------
    answers
        Of the teachers, in an order that does not depend on who answered first: sums of floats depend on it.
    weighting
        Scheme, power and pooling.
    settings
        Objective, and the power of the agreement by which texts are weighed.

    Raises
    ------
    ConfigError
        If a user's own scheme cannot be used.
    """
    stacked = TeacherAnswers.stack(answers)
    weights = client_weights(weighting.scheme, stacked, power=weighting.power)
    pooled = pool_soft_labels(stacked.soft_labels, weights, pooling=weighting.pooling, trim=weighting.trim)
    text_weights = agreement_weights(stacked.soft_labels, weights, pooled, power=settings.agreement)
    if settings.objective == "pooled":
        return Consensus(pooled[None], text_weights[None], pooled)
    return Consensus(stacked.soft_labels, weights * text_weights, pooled)


def consensus_of_pooled(pooled: SoftLabels) -> Consensus:
    """Return the consensus where only pooled soft labels are known, as after a secure sum."""
    return Consensus(pooled[None], np.ones((1, len(pooled))), pooled)
