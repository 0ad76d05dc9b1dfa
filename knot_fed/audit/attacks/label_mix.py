"""Label-distribution inference: the share of each label in a client's private examples, from what leaves it."""

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
    return np.bincount(labels, minlength=classes) / len(labels)


def adapted_prior(soft_labels: SoftLabels, trained_on: Float[np.ndarray, "classes"]) -> Float[np.ndarray, "classes"]:
    """Estimate the label mix of unlabelled texts by EM (Saerens, Latinne, Decaestecker 2002).

    Iterates `pi(y) = mean_x q(y|x) pi(y)/pi_0(y) / sum_z q(z|x) pi(z)/pi_0(z)` from the mix pi_0 > 0 that the
    classifier q was trained on.
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
    """Estimate the label mix that a classifier was trained on, from its answers on texts of a known mix pi > 0.

    Solves the equation of `adapted_prior` for the other prior: the mix pi_0 for which the answers, adapted from pi_0 to
    pi, average to pi. With `b = ln(pi / pi_0)` that is the minimum of the convex function
    `mean_x ln sum_y q(y|x) exp(b_y) - sum_y pi_y b_y`.
    """
    logs = np.log(np.maximum(soft_labels, LEAST_PROBABILITY))
    shift = np.zeros(soft_labels.shape[1])
    for _ in range(STEPS):
        reached = np.exp(logsumexp(logs + shift - logsumexp(logs + shift, axis=1, keepdims=True), axis=0))
        step = np.log(mix_of_texts) - np.log(reached / len(logs))
        shift += step
        if np.abs(step).max() < TOLERANCE:
            break
    return np.asarray(softmax(np.log(mix_of_texts) - shift))


def trilaterated_bias(
    soft_labels: SoftLabels, confidences: Float[np.ndarray, "examples"]
) -> Float[np.ndarray, "classes"]:
    """Recover the prediction bias b from confidences `c = ||q - b||` by least squares.

    Since `||q||^2 - c^2 = 2 q.b - ||b||^2`, the bias solves a linear system in (b, ||b||^2): soft labels and
    confidences together reveal the bias.
    """
    rows = soft_labels.astype(np.float64)
    system = np.column_stack([2 * rows, -np.ones(len(rows))])
    known = (rows**2).sum(axis=1) - confidences.astype(np.float64) ** 2
    solution, *_ = np.linalg.lstsq(system, known, rcond=None)
    bias = np.maximum(solution[:-1] - (solution[:-1].sum() - 1) / (len(solution) - 1), LEAST_PROBABILITY)
    return np.asarray(bias / bias.sum())


def inferred_mixes(
    soft_labels: SoftLabels, *, public_answers: SoftLabels, public_mix: Float[np.ndarray, "classes"]
) -> dict[str, Float[np.ndarray, "classes"]]:
    """Estimate the label mix from soft labels of one teacher, or pooled, on the transfer set.

    `public_answers` are soft labels of the server's own model, trained on `public_mix`; they show the mix of the texts.
    """
    counted = np.bincount(soft_labels.argmax(axis=1), minlength=soft_labels.shape[1]) + SMOOTHING
    known = np.maximum(public_mix, LEAST_PROBABILITY)
    return {
        "mean row": soft_labels.mean(axis=0) / soft_labels.mean(axis=0).sum(),
        "arg-max counts": counted / counted.sum(),
        "prior matched": training_prior(soft_labels, adapted_prior(public_answers, known)),
    }


def mix_errors(true: Float[np.ndarray, "classes"], inferred: Float[np.ndarray, "classes"]) -> Mapping[str, float]:
    """Return `KL(true || inferred)` in nats, and the total variation in [0, 1]."""
    guessed = np.maximum(inferred, LEAST_PROBABILITY)
    return {
        "kl": float(rel_entr(true, guessed / guessed.sum()).sum()),
        "total_variation": float(np.abs(true - inferred).sum() / 2),
    }
