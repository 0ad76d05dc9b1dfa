"""Membership inference by likelihood ratios against shadow teachers: LiRA (Carlini et al. 2022), on soft labels."""

import numpy as np
from jaxtyping import Bool, Float, Int

from knot_fed.types import SoftLabels

LEAST_PROBABILITY = 1e-6
LEAST_VARIANCE = 1e-6
FEWEST_SHADOWS = 2


def label_logits(soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"]) -> Float[np.ndarray, "examples"]:
    """Return `ln(p_y / (1 - p_y))` of the label y that the attacker knows, near to normal over trainings.

    Examples
    --------
    >>> label_logits(np.array([[0.5, 0.5]]), np.array([1])).tolist()
    [0.0]
    """
    chosen = soft_labels[np.arange(len(labels)), labels].astype(np.float64)
    known = np.clip(chosen, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    logits: Float[np.ndarray, examples] = np.log(known) - np.log1p(-known)
    return logits


def lira_scores(
    observed: Float[np.ndarray, "candidates features"],
    shadows: Float[np.ndarray, "shadows candidates features"],
    members: Bool[np.ndarray, "shadows candidates"],
    *,
    online: bool,
) -> Float[np.ndarray, "candidates"]:
    """Score how much likelier an observation is from a teacher that saw the candidate than from one that did not.

    Online: `sum_f ln N(x_f; mean_in, var_in) - ln N(x_f; mean_out, var_out)`, over shadow teachers that saw this
    candidate and that did not. Offline: `sum_f (x_f - mean_out) / sd_out`, which needs no shadow that saw it; for one
    feature it ranks as Carlini's one-sided test does. Means are each candidate's own, variances shared by all
    candidates, which Carlini et al. (2022, figure 9) found better below some 64 shadows.

    Parameters
    ----------
    observed
        What the attacker reads off the attacked teacher for each candidate, such as `label_logits` of its own text
        or of texts near it.
    shadows
        The same, off teachers that the attacker trained.
    members
        Whether each shadow teacher saw each candidate.
    online
        Whether the shadows that saw the candidate are read.

    Returns
    -------
    scores
        Higher means more likely a member; 0 where fewer than 2 of the shadows needed are there.
    """
    mean_out, variance_out, enough = _moments(shadows, ~members)
    if online:
        mean_in, variance_in, enough_in = _moments(shadows, members)
        enough = enough & enough_in
        evidence = _log_density(observed, mean_in, variance_in) - _log_density(observed, mean_out, variance_out)
    else:
        evidence = (observed - mean_out) / np.sqrt(variance_out)
    scores: Float[np.ndarray, candidates] = np.where(enough, evidence.sum(axis=1), 0.0)
    return scores


def leave_one_out(
    observations: Float[np.ndarray, "models candidates features"],
    members: Bool[np.ndarray, "models candidates"],
    *,
    online: bool,
) -> Float[np.ndarray, "models candidates"]:
    """Attack each model in turn, all others being its shadows: as many attacked teachers as were trained."""
    every = np.arange(len(observations))
    scores = [
        lira_scores(observations[model], observations[every != model], members[every != model], online=online)
        for model in every
    ]
    return np.stack(scores)


def _moments(
    shadows: Float[np.ndarray, "shadows candidates features"], chosen: Bool[np.ndarray, "shadows candidates"]
) -> tuple[Float[np.ndarray, "candidates features"], Float[np.ndarray, "features"], Bool[np.ndarray, "candidates"]]:
    """Return each candidate's mean over the chosen shadows, the variance within candidates, and who has enough."""
    counts = chosen.sum(axis=0)
    enough = counts >= FEWEST_SHADOWS
    kept = chosen[:, :, None]
    means = (shadows * kept).sum(axis=0) / np.maximum(counts, 1)[:, None]
    squares = (((shadows - means) * kept) ** 2).sum(axis=0)[enough].sum(axis=0)
    freedom = max(1, int((counts[enough] - 1).sum()))
    return means, np.maximum(squares / freedom, LEAST_VARIANCE), enough


def _log_density(
    values: Float[np.ndarray, "candidates features"],
    means: Float[np.ndarray, "candidates features"],
    variances: Float[np.ndarray, "features"],
) -> Float[np.ndarray, "candidates features"]:
    """Return the log density of a normal distribution, but for a constant."""
    return np.asarray(-0.5 * ((values - means) ** 2 / variances + np.log(variances)))
