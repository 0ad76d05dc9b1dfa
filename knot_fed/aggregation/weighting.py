"""Client weights: the weight of each teacher on each text."""

from collections.abc import Callable, Sequence
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
    """The answers of all teachers, stacked, as weighting schemes read them.

    Confidences are the scores in [0, 2] that clients compute by `knot_fed.training.confidence.teacher_scores`; for
    plug-ins, the distance of the prediction from the prediction bias.
    """

    examples: Int[np.ndarray, "clients"]  # training examples; 0 if a client's policy withholds the count
    confidences: Float[np.ndarray, "clients texts"]  # 0 if the scheme does not need them, or a policy withholds them
    soft_labels: Float[np.ndarray, "clients texts classes"]
    alike: Sequence[bool] = ()  # for each client, whether it answers all texts alike; empty: none does

    @classmethod
    def stack(cls, answers: Sequence[TeacherAnswer], *, alike: Sequence[bool] | None = None) -> "TeacherAnswers":
        """Stack single answers in the order given, as float64; of a part of the texts, pass `alike` of all."""
        return cls(
            np.array([answer.examples for answer in answers]),
            np.stack([answer.scores for answer in answers]).astype(np.float64),
            np.stack([answer.soft_labels for answer in answers]).astype(np.float64),
            [answer.alike for answer in answers] if alike is None else alike,
        )

    def informed(self, scores: Float[np.ndarray, "clients texts"]) -> Float[np.ndarray, "clients texts"]:
        """Return the scores, with 0 for teachers that answer all texts alike: a constant is certain of everything."""
        return np.where(np.array(self.alike)[:, None], 0.0, scores) if len(self.alike) else scores


Scheme: TypeAlias = Callable[[TeacherAnswers], Float[np.ndarray, "clients texts"]]
"""Returns scores >= 0; only their ratios on a text matter. The interface of plug-ins, too."""


def uniform_scores(answers: TeacherAnswers) -> Float[np.ndarray, "clients texts"]:
    """Give all teachers equal scores."""
    return np.ones(answers.confidences.shape)


def size_scores(answers: TeacherAnswers) -> Float[np.ndarray, "clients texts"]:
    """Score by training examples; teachers that withhold the count get the mean of the others."""
    reported = answers.examples[answers.examples > 0]
    sizes = np.where(answers.examples > 0, answers.examples, reported.mean() if len(reported) else 1.0)
    return np.repeat(sizes.astype(np.float64)[:, None], answers.confidences.shape[1], axis=1)


def reported_scores(answers: TeacherAnswers) -> Float[np.ndarray, "clients texts"]:
    """Score by what clients report: `knot_fed.training.confidence.teacher_scores`."""
    return answers.confidences.astype(np.float64)


def certainty_scores(answers: TeacherAnswers) -> Float[np.ndarray, "clients texts"]:
    """Score by `1 - H(q) / ln L`: 1 for a one-hot soft label, 0 for a uniform one, and for a teacher of one answer."""
    soft_labels = answers.soft_labels.astype(np.float64)
    entropies = entr(np.maximum(soft_labels, 0.0)).sum(axis=2)
    return answers.informed(np.clip(1 - entropies / np.log(soft_labels.shape[2]), 0.0, 1.0))


def variance_scores(answers: TeacherAnswers) -> Float[np.ndarray, "clients texts"]:
    """Score by the variance of the soft label over its L labels (Fed-ET, Cho et al. 2022, arXiv 2204.12703).

    `Var(q) = 1/L sum_c (q_c - 1/L)^2`, over that of a one-hot row, `(L - 1) / L^2`, so that scores lie in [0, 1]; the
    weights `Var(q_k) / sum_j Var(q_j)` are the paper's. Its diversity regularisation is not a weight, and left out. A
    teacher that answers all texts alike scores 0.
    """
    labels = answers.soft_labels.shape[2]
    variances = np.asarray(answers.soft_labels.astype(np.float64).var(axis=2))
    return answers.informed(np.clip(variances * labels**2 / (labels - 1), 0.0, 1.0))


def selects_texts(scheme: str) -> bool:
    """Return whether a text is left out if its scores are all 0."""
    return scheme == "selective"


def texts_selected(scheme: str, answers: TeacherAnswers) -> Float[np.ndarray, "texts"]:
    """Return 0 for each text that no teacher has selected under `selective`, and 1 for all others."""
    if not selects_texts(scheme):
        return np.ones(answers.confidences.shape[1])
    return np.asarray((answers.confidences > 0).any(axis=0), dtype=np.float64)


SCHEMES: dict[str, Scheme] = {
    "uniform": uniform_scores,
    "size": size_scores,
    "confidence": reported_scores,
    "histogram-confidence": reported_scores,
    "certainty": certainty_scores,
    "density": reported_scores,
    "domain": reported_scores,
    "variance": variance_scores,
    "selective": reported_scores,
    "adafd": reported_scores,
    "reliability": reported_scores,
}
"""By the names of `weights.scheme`; `knot_fed.config.choices` declares what each reads of a client."""
MOST_EXAMPLES = 2.0**24
SCORE_BOUNDS: dict[str, float] = {
    "uniform": 1.0,
    "size": MOST_EXAMPLES,
    "confidence": 2.0,
    "histogram-confidence": 2.0,
    "certainty": 1.0,
    "density": 1.0,
    "domain": 1.0,
    "variance": 1.0,
    "selective": 1.0,
    "adafd": 1.0,
    "reliability": 1.0,
}
"""The largest score of each scheme that a client can compute alone, as a secure sum requires."""


def find_scheme(name: str) -> Scheme:
    """Return the scheme of that name, or import a plug-in; raises ConfigError as `load_plugin`."""
    return SCHEMES[name] if name in SCHEMES else load_plugin(name, key="weights.scheme", known=tuple(SCHEMES))


def client_weights(scheme: str, answers: TeacherAnswers, *, power: float = 1.0) -> Float[np.ndarray, "clients texts"]:
    """Return `w_k = s_k^power / sum_j s_j^power` for each text, in float64; s are the scheme's scores.

    The weights of a text sum to 1. If all scores of a text are 0, its weights are uniform.

    Parameters
    ----------
    scheme
        A name in `SCHEMES`, or a plug-in `package.module:function` that takes `TeacherAnswers`.
    power
        >= 0; above 1 sharpens the weights, 0 makes them equal.

    Raises
    ------
    ConfigError
        If the scheme is unknown, or a plug-in does not return one finite score >= 0 per teacher and text.

    Examples
    --------
    >>> answers = TeacherAnswers(np.array([1, 3]), np.zeros((2, 1)), np.full((2, 1, 2), 0.5))
    >>> client_weights("size", answers).tolist()
    [[0.25], [0.75]]
    """
    returned, expected = find_scheme(scheme)(answers), answers.confidences.shape
    try:
        scores = np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(
            f"weights.scheme = {scheme!r}: returned a {type(returned).__name__}, expected an array of numbers; return"
            " one row of scores for each teacher"
        ) from None
    if scores.shape != expected:
        raise ConfigError(
            f"weights.scheme = {scheme!r}: returned scores of shape {scores.shape}, expected {expected};"
            " return one row for each teacher"
        )
    wrong = int((~(np.isfinite(scores) & (scores >= 0))).sum())
    if wrong:
        raise ConfigError(
            f"weights.scheme = {scheme!r}: {wrong} of {scores.size} scores are negative or not finite;"
            " return scores >= 0"
        )
    highest = scores.max(axis=0)  # scaled to 1 first, so that no power overflows
    sharpened = np.where(highest > 0, scores / np.where(highest > 0, highest, 1.0), 1.0) ** power
    weights: Float[np.ndarray, "clients texts"] = sharpened / sharpened.sum(axis=0)
    return weights


def single_weights(scheme: str, answer: TeacherAnswer, *, power: float = 1.0) -> Float[np.ndarray, "texts"]:
    """Return one teacher's unnormalised weights, `s^power`, which its client can compute alone.

    They lie in [0, `weight_bound(scheme)`], except for a `size` above the bound; `scheme` is a name in `SCORE_BOUNDS`.
    """
    weights: Float[np.ndarray, texts] = SCHEMES[scheme](TeacherAnswers.stack([answer]))[0] ** power
    return weights


def weight_bound(scheme: str, *, power: float) -> float:
    """Return the largest weight that `single_weights` returns under a scheme, at least 1."""
    return float(2.0 ** min(power * np.log2(SCORE_BOUNDS[scheme]), 1000.0))
