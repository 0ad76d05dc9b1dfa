"""From the teachers' answers to the student's targets and weights; shared by runs, audits and sweeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from knot_fed.aggregation.pooling import agreements, entropy_shares, kept_by_entropy, pool_soft_labels, shares_of
from knot_fed.aggregation.weighting import SCHEMES, TeacherAnswers, client_weights, texts_selected
from knot_fed.config import DistillConfig, WeightsConfig
from knot_fed.errors import ConfigError
from knot_fed.types import SoftLabels, TeacherAnswer

VALUES_AT_ONCE = 1 << 20
"""Soft labels of all teachers that are converted to float64 at once."""
LEAST_SLICE = 4
LEAST_TAUGHT = 2


@dataclass(frozen=True, slots=True, eq=False)
class Consensus:
    """The student's targets: soft labels of each teacher as answered, or the pooled ones as those of one teacher."""

    targets: Float[np.ndarray, "teachers texts classes"]
    weights: Float[np.ndarray, "teachers texts"]  # float64; those of a text sum to the text's own weight
    pooled: SoftLabels  # one distribution per text, float64, whatever the objective


def find_consensus(answers: Sequence[TeacherAnswer], weighting: WeightsConfig, settings: DistillConfig) -> Consensus:
    """Weight and pool the answers, and return the targets that the objective reads.

    All sums are in float64 and in the order of the answers. A slice of the texts is converted at a time, so that the
    memory needed beside the answers is about theirs; a plug-in scheme, which may compare texts, gets all at once.

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
    teachers, (texts, classes) = len(answers), answers[0].soft_labels.shape
    weights, pooled = np.empty((teachers, texts)), np.empty((texts, classes))
    agreement, selected, scheme = np.empty(texts), np.empty(texts), weighting.effective_scheme
    alike = [answer.alike for answer in answers]
    for rows in _slices(texts, teachers * classes, whole=scheme not in SCHEMES):
        part = slice(rows.start, rows.stop)
        stacked = TeacherAnswers.stack([answer.select(rows) for answer in answers], alike=alike)
        weights[:, part] = client_weights(scheme, stacked, power=weighting.power)
        pooled[part] = pool_soft_labels(
            stacked.soft_labels, weights[:, part], pooling=weighting.pooling, trim=weighting.trim,
            temperature=weighting.era_temperature,
        )  # fmt: skip
        agreement[part] = agreements(stacked.soft_labels, weights[:, part], pooled[part], power=settings.agreement)
        selected[part] = texts_selected(scheme, stacked)
    text_weights = shares_of(agreement, _kept(pooled, selected, most=weighting.most_entropy))
    if settings.objective == "pooled":
        return Consensus(pooled[None], text_weights[None], pooled)
    weights *= text_weights
    return Consensus(np.stack([answer.soft_labels for answer in answers]), weights, pooled)


def _slices(texts: int, each: int, *, whole: bool) -> list[range]:
    """Return near-equal slices of the texts; none of one text alone, which NumPy would sum in another order."""
    size = texts if whole else max(LEAST_SLICE, VALUES_AT_ONCE // each)
    bounds = np.linspace(0, texts, max(1, -(-texts // size)) + 1).astype(int).tolist()
    return [range(start, stop) for start, stop in pairwise(bounds)]


def consensus_of_pooled(
    pooled: SoftLabels, weighting: WeightsConfig, selected: Float[np.ndarray, "texts"] | None = None
) -> Consensus:
    """Return the consensus if only pooled soft labels are known, as after a secure sum; `most_entropy` is read.

    `selected` is as `texts_selected` returns it; None: all.
    """
    kept = _kept(pooled, np.ones(len(pooled)) if selected is None else selected, most=weighting.most_entropy)
    return Consensus(pooled[None], shares_of(kept, kept)[None], pooled)


def check_texts_teach(found: Consensus, weighting: WeightsConfig) -> None:
    """Raise `ConfigError` if fewer than two texts have a weight: one teaches, and one is held out."""
    taught, most = int((found.weights.sum(axis=0) > 0).sum()), weighting.most_entropy
    if taught >= LEAST_TAUGHT:
        return
    said = f"weights leave {taught or 'none'} of {len(found.pooled)} transfer texts, and a distillation needs 2; "
    if most == 1:
        raise ConfigError(said + "use more transfer texts, or another weights.scheme")
    needed = np.ceil(1e3 * np.sort(entropy_shares(found.pooled))[:LEAST_TAUGHT][-1]) / 1e3
    raise ConfigError(f"{said}weights.most-entropy = {most:g} is too small; use at least {needed:g}")


def _kept(pooled: SoftLabels, selected: Float[np.ndarray, "texts"], *, most: float) -> Float[np.ndarray, "texts"]:
    """Return 1 for each text that teaches; where teachers select none at all, as if they withheld it, all count."""
    return kept_by_entropy(pooled, most=most) * (selected if selected.any() else 1.0)
