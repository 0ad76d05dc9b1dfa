"""How much each teacher counts on each text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr

from knot_fed.config.plugins import load_plugin
from knot_fed.errors import ConfigError
from knot_fed.types import TeacherAnswer


@dataclass(frozen=True, slots=True, eq=False)
class TeacherAnswers:
    """What the server knows of its teachers when it weighs them: their answers, stacked.

    Parameters
    ----------
    examples
        Training examples of each teacher; 0 where a client's policy keeps the count.
    confidences
        One score in [0, 2] of each teacher for each text, computed by the teacher's owner: its nearness to the own
        data under `density`, else the distance of the prediction from the prediction bias. 0 where no scheme asks
        for it, or a client's policy keeps it.
    soft_labels
        One distribution for each teacher and text.
    """

    examples: Int[np.ndarray, "clients"]
    confidences: Float[np.ndarray, "clients texts"]
    soft_labels: Float[np.ndarray, "clients texts classes"]

    @classmethod
    def stack(cls, answers: Sequence[TeacherAnswer]) -> "TeacherAnswers":
        """Stack single answers in the order given, as float64."""
        return cls(
            np.array([answer.examples for answer in answers]),
            np.stack([answer.scores for answer in answers]).astype(np.float64),
            np.stack([answer.soft_labels for answer in answers]).astype(np.float64),
        )


Scheme: TypeAlias = Callable[[TeacherAnswers], Float[np.ndarray, "clients texts"]]
"""Scores >= 0 of the teachers on each text; only their ratios count. A user's own function does the same."""


def uniform_scores(answers: TeacherAnswers) -> Float[np.ndarray, "clients texts"]:
    """Score all teachers the same."""
    return np.ones(answers.confidences.shape)


def size_scores(answers: TeacherAnswers) -> Float[np.ndarray, "clients texts"]:
    """Score by training examples; teachers that did not tell theirs count as the mean of the others."""
    told = answers.examples[answers.examples > 0]
    sizes = np.where(answers.examples > 0, answers.examples, told.mean() if len(told) else 1.0)
    return np.repeat(sizes.astype(np.float64)[:, None], answers.confidences.shape[1], axis=1)


def reported_scores(answers: TeacherAnswers) -> Float[np.ndarray, "clients texts"]:
    """Score by what the owners sent: confidence or density."""
    return answers.confidences.astype(np.float64)


def certainty_scores(answers: TeacherAnswers) -> Float[np.ndarray, "clients texts"]:
    """Score by `1 - H(q) / ln L`: 1 for a one-hot soft label, 0 for a flat one; needs nothing from the client."""
    soft_labels = answers.soft_labels.astype(np.float64)
    entropies = entr(np.maximum(soft_labels, 0.0)).sum(axis=2)
    scores: Float[np.ndarray, "clients texts"] = np.clip(1 - entropies / np.log(soft_labels.shape[2]), 0.0, 1.0)
    return scores


SCHEMES: Mapping[str, Scheme] = {
    "uniform": uniform_scores,
    "size": size_scores,
    "confidence": reported_scores,
    "histogram-confidence": reported_scores,
    "certainty": certainty_scores,
    "density": reported_scores,
}


MOST_EXAMPLES = 2.0**24
SCORE_BOUNDS: Mapping[str, float] = {
    "uniform": 1.0,
    "size": MOST_EXAMPLES,
    "confidence": 2.0,
    "histogram-confidence": 2.0,
    "certainty": 1.0,
    "density": 1.0,
}
"""The largest score of each scheme that an owner can compute alone."""


def find_scheme(name: str) -> Scheme:
    """Return the scheme of that name, or import the user's own.

    Raises
    ------
    ConfigError
        If there is none of that name, or the user's own cannot be imported or is not callable.
    """
    return SCHEMES[name] if name in SCHEMES else load_plugin(name, key="weights.scheme", known=tuple(SCHEMES))


def client_weights(scheme: str, answers: TeacherAnswers, *, power: float = 1.0) -> Float[np.ndarray, "clients texts"]:
    """Weigh the teachers on each text: `w_k = s_k^power / sum_j s_j^power`, s the scheme's scores.

    Parameters
    ----------
    scheme
        A name of `SCHEMES`, or a user's own `package.module:function` of `TeacherAnswers`.
    answers
        Of all teachers.
    power
        >= 0; above 1 sharpens the weights, 0 makes them all the same.

    Returns
    -------
    weights
        float64, >= 0; the teachers' weights on each text sum to 1. A text on which nobody scores is weighed uniformly.

    Raises
    ------
    ConfigError
        If there is no such scheme, or the user's own gives anything but finite scores >= 0, one for each text.

    Examples
    --------
    >>> answers = TeacherAnswers(np.array([1, 3]), np.zeros((2, 1)), np.full((2, 1, 2), 0.5))
    >>> client_weights("size", answers).tolist()
    [[0.25], [0.75]]
    """
    scores, expected = _read_scores(find_scheme(scheme)(answers), scheme), answers.confidences.shape
    if scores.shape != expected:
        raise ConfigError(
            f"weights.scheme = {scheme!r}: gave scores of shape {scores.shape}, expected {expected};"
            " return one row for each teacher"
        )
    wrong = int((~(np.isfinite(scores) & (scores >= 0))).sum())
    if wrong:
        raise ConfigError(
            f"weights.scheme = {scheme!r}: {wrong} of {scores.size} scores are negative or not finite;"
            " return scores >= 0"
        )
    highest = scores.max(axis=0)
    sharpened = np.where(highest > 0, scores / np.where(highest > 0, highest, 1.0), 1.0) ** power
    weights: Float[np.ndarray, "clients texts"] = sharpened / sharpened.sum(axis=0)
    return weights


def _read_scores(scores: object, scheme: str) -> Float[np.ndarray, "..."]:
    try:
        return np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(
            f"weights.scheme = {scheme!r}: gave a {type(scores).__name__} that is no array of numbers; return one row"
            " of scores for each teacher"
        ) from None


def single_weights(scheme: str, answer: TeacherAnswer, *, power: float = 1.0) -> Float[np.ndarray, "texts"]:
    """Weigh one teacher alone, as its owner can: `s^power`, not divided by the sum over teachers.

    Parameters
    ----------
    scheme
        A name of `SCORE_BOUNDS`.
    answer
        Of that teacher.
    power
        As in `client_weights`.

    Returns
    -------
    weights
        float64, in [0, `weight_bound(scheme)`], but for a `size` beyond it.
    """
    weights: Float[np.ndarray, texts] = SCHEMES[scheme](TeacherAnswers.stack([answer]))[0] ** power
    return weights


def weight_bound(scheme: str, *, power: float) -> float:
    """Return the largest weight that `single_weights` gives under a scheme, at least 1."""
    return float(2.0 ** min(power * np.log2(SCORE_BOUNDS[scheme]), 1000.0))
