"""The attacker's teachers: shadows trained on each candidate by a coin, and what their soft labels reveal of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from knot_fed.audit.attacks.membership import label_logits, lira_scores
from knot_fed.training.confidence import nearest_by_words
from knot_fed.types import LabelledTexts, SoftLabels, Text

Answers: TypeAlias = Callable[[Sequence[Text]], SoftLabels]
"""A teacher as seen from outside: the soft labels that its client would release."""

A = TypeVar("A", bound=Answers)


@dataclass(frozen=True, slots=True, eq=False)
class Shadows(Generic[A]):
    """Candidates, the teachers, and whether each teacher (row of `members`) was trained on each candidate."""

    candidates: LabelledTexts
    members: Bool[np.ndarray, "models candidates"]
    teachers: Sequence[A]


def train_shadows(
    training: Callable[[LabelledTexts, int], A],
    always: LabelledTexts,
    candidates: LabelledTexts,
    *,
    count: int,
    generator: np.random.Generator,
) -> Shadows[A]:
    """Train `count` teachers on all examples of `always`, and on each candidate by a fair coin.

    `training`, which trains on examples with a seed, is all that an attack knows of a mechanism.
    """
    members = generator.random((count, len(candidates))) < 0.5
    teachers = []
    for included in members:
        chosen = candidates.select(np.flatnonzero(included))
        labels = np.concatenate([always.labels, chosen.labels])
        teachers.append(training(LabelledTexts((*always.texts, *chosen.texts), labels), int(generator.integers(2**31))))
    return Shadows(candidates, members, teachers)


def split_candidates(
    train: LabelledTexts, count: int, *, generator: np.random.Generator
) -> tuple[LabelledTexts, LabelledTexts]:
    """Draw `count` candidates from the training examples, at most half, and return them and the rest."""
    order = generator.permutation(len(train))
    count = min(count, len(train) // 2)
    return train.select(order[:count]), train.select(order[count:])


def read_own(shadows: Shadows[A]) -> Float[np.ndarray, "models candidates 1"]:
    """Return the logit of each candidate's label in its own soft label."""
    texts, labels = shadows.candidates.texts, shadows.candidates.labels
    return np.stack([label_logits(teacher(texts), labels)[:, None] for teacher in shadows.teachers])


def read_nearest(
    shadows: Shadows[A], texts: Sequence[Text], *, count: int
) -> Float[np.ndarray, "models candidates nearest"]:
    """Return the logits of each candidate's label in the soft labels of the `count` texts nearest to it."""
    _, rows = nearest_by_words(shadows.candidates.texts, texts, count=count)
    asked = np.unique(rows)
    labels = np.repeat(shadows.candidates.labels, rows.shape[1])
    logits = []
    for teacher in shadows.teachers:
        answers = teacher([texts[row] for row in asked])[np.searchsorted(asked, rows.ravel())]
        logits.append(label_logits(answers, labels).reshape(rows.shape))
    return np.stack(logits)


def canary_scores(shadows: Shadows[A]) -> tuple[Float[np.ndarray, "candidates"], Bool[np.ndarray, "candidates"]]:
    """Score the candidates as canaries of the first teacher, with the others as shadows; return its coins too."""
    seen = read_own(shadows)
    return lira_scores(seen[0], seen[1:], shadows.members[1:], online=True), shadows.members[0]
