"""Label-distribution inference: which share of each label an owner's private examples have, read off what leaves."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp, rel_entr, softmax

from knot_fed.types import SoftLabels

LEAST_PROBABILITY = 1e-6
STEPS = 500
TOLERANCE = 1e-9
SMOOTHING = 0.5


def true_mix(labels: Int[np.ndarray, "examples"], classes: int) -> Float[np.ndarray, "classes"]:
    """Return the share of each label.

    Examples
    --------
    >>> true_mix(np.array([0, 2, 2, 2]), 3).tolist()
    [0.25, 0.0, 0.75]
    """
    shares: Float[np.ndarray, classes] = np.bincount(labels, minlength=classes) / len(labels)
    return shares


def adapted_prior(soft_labels: SoftLabels, trained_on: Float[np.ndarray, "classes"]) -> Float[np.ndarray, "classes"]:
    """Estimate the label mix of unlabelled texts by EM (Saerens, Latinne, Decaestecker 2002).

    Iterates `pi(y) = mean_x q(y|x) pi(y)/pi_0(y) / sum_z q(z|x) pi(z)/pi_0(z)` from pi_0.

    Parameters
    ----------
    soft_labels
        A classifier's answers q on the texts.
    trained_on
        The label mix pi_0 that it was trained on, > 0.
    """
    prior = trained_on
    for _ in range(STEPS):
        shifted = np.log(np.maximum(soft_labels, LEAST_PROBABILITY)) + np.log(prior / trained_on)
        updated = np.maximum(softmax(shifted, axis=1).mean(axis=0), LEAST_PROBABILITY)
        if np.abs(updated - prior).max() < TOLERANCE:
            break
        prior = updated
    return np.asarray(prior / prior.sum())


def training_prior(soft_labels: SoftLabels, mix_of_texts: Float[np.ndarray, "classes"]) -> Float[np.ndarray, "classes"]:
    """Estimate the label mix that a classifier was trained on, from its answers on texts of a known mix.

    The equation of `adapted_prior` solved for the other prior: the mix pi_0 for which the answers, brought from pi_0
    to the mix pi of the texts, average to pi. With `b = ln(pi / pi_0)` that is the minimum of the convex function
    `mean_x ln sum_y q(y|x) exp(b_y) - sum_y pi_y b_y`.

    Parameters
    ----------
    soft_labels
        The teacher's answers on the transfer set.
    mix_of_texts
        The transfer set's own mix pi, > 0; a server estimates it by `adapted_prior` of its public student.
    """
    logs = np.log(np.maximum(soft_labels, LEAST_PROBABILITY))
    shift = np.zeros(soft_labels.shape[1])
    for _ in range(STEPS):
        reached = np.exp(logsumexp(logs + shift - logsumexp(logs + shift, axis=1, keepdims=True), axis=0))
        step = np.log(mix_of_texts) - np.log(reached / len(logs))
        shift += step
        if np.abs(step).max() < TOLERANCE:
            break
    prior: Float[np.ndarray, classes] = softmax(np.log(mix_of_texts) - shift)
    return prior


def trilaterated_bias(
    soft_labels: SoftLabels, confidences: Float[np.ndarray, "examples"]
) -> Float[np.ndarray, "classes"]:
    """Recover the prediction bias b that confidences were measured from, `c = ||q - b||`, by least squares.

    Since `||q||^2 - c^2 = 2 q.b - ||b||^2`, the bias is the solution of a linear system in (b, ||b||^2): who is told
    soft labels and confidences is told the bias.

    Parameters
    ----------
    soft_labels, confidences
        What a client tells of each text.
    """
    rows = soft_labels.astype(np.float64)
    system = np.column_stack([2 * rows, -np.ones(len(rows))])
    told = (rows**2).sum(axis=1) - confidences.astype(np.float64) ** 2
    solution, *_ = np.linalg.lstsq(system, told, rcond=None)
    return _on_simplex(solution[:-1] - (solution[:-1].sum() - 1) / (len(solution) - 1))


def inferred_mixes(
    soft_labels: SoftLabels, *, public_answers: SoftLabels, public_mix: Float[np.ndarray, "classes"]
) -> dict[str, Float[np.ndarray, "classes"]]:
    """Estimate the mix from soft labels on the transfer set by all that need nothing else.

    Parameters
    ----------
    soft_labels
        Of one teacher, or pooled.
    public_answers
        The same of the server's own model on the same texts, from which it estimates their mix.
    public_mix
        What that model was trained on.

    Returns
    -------
    mixes
        `mean row`; `arg-max counts`; `prior matched`: `training_prior`.
    """
    counted = np.bincount(soft_labels.argmax(axis=1), minlength=soft_labels.shape[1]) + SMOOTHING
    known = np.maximum(public_mix, LEAST_PROBABILITY)
    return {
        "mean row": soft_labels.mean(axis=0) / soft_labels.mean(axis=0).sum(),
        "arg-max counts": counted / counted.sum(),
        "prior matched": training_prior(soft_labels, adapted_prior(public_answers, known)),
    }


def mix_errors(true: Float[np.ndarray, "classes"], inferred: Float[np.ndarray, "classes"]) -> Mapping[str, float]:
    """Return `KL(true || inferred)` in nats and the total variation, in [0, 1].

    Examples
    --------
    >>> mix_errors(np.array([0.5, 0.5]), np.array([0.25, 0.75]))["total_variation"]
    0.25
    """
    guessed = np.maximum(inferred, LEAST_PROBABILITY)
    return {
        "kl": float(rel_entr(true, guessed / guessed.sum()).sum()),
        "total_variation": float(np.abs(true - inferred).sum() / 2),
    }


def _on_simplex(values: Float[np.ndarray, "classes"]) -> Float[np.ndarray, "classes"]:
    """Cut off what is negative, and divide by the sum."""
    positive = np.maximum(values, LEAST_PROBABILITY)
    shares: Float[np.ndarray, classes] = positive / positive.sum()
    return shares
