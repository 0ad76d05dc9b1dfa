"""Membership inference by likelihood ratios against shadow teachers: LiRA (Carlini et al. 2022), on soft labels."""

import numpy as np
from jaxtyping import Bool, Float, Int

from knot_fed.types import SoftLabels

LEAST_PROBABILITY = 1e-6
LEAST_VARIANCE = 1e-6
FEWEST_SHADOWS = 2
Observed = Float[np.ndarray, "models candidates features"]
Members = Bool[np.ndarray, "models candidates"]


def label_logits(soft_labels: SoftLabels, labels: Int[np.ndarray, "examples"]) -> Float[np.ndarray, "examples"]:
    """Return `ln(p_y / (1 - p_y))` of the known label y, which is close to normal over trainings.

    Examples
    --------
    >>> label_logits(np.array([[0.5, 0.5]]), np.array([1])).tolist()
    [0.0]
    """
    chosen = soft_labels[np.arange(len(labels)), labels].astype(np.float64)
    known = np.clip(chosen, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.asarray(np.log(known) - np.log1p(-known))


def lira_scores(
    observed: Float[np.ndarray, "candidates features"],
    shadows: Float[np.ndarray, "shadows candidates features"],
    members: Bool[np.ndarray, "shadows candidates"],
    *,
    online: bool,
) -> Float[np.ndarray, "candidates"]:
    """Score how much more likely an observation is from a teacher trained on the candidate than from one that was not.

    Online: `sum_f ln N(x_f; mean_in, var_in) - ln N(x_f; mean_out, var_out)`, over shadows that were trained on the
    candidate and that were not. Offline: `sum_f (x_f - mean_out) / sd_out`, which needs no shadow trained on it; for
    one feature it ranks like Carlini's one-sided test. Means are per candidate, variances shared by all candidates,
    which Carlini et al. (2022, figure 9) found better below about 64 shadows. The features are, for example,
    `label_logits` of the candidate itself or of nearby texts. Returns 0 if fewer than 2 of the required shadows exist.
    """
    mean_out, variance_out, enough = _moments(shadows, ~members)
    if online:
        mean_in, variance_in, enough_in = _moments(shadows, members)
        enough = enough & enough_in
        seen, unseen = (
            -0.5 * ((observed - mean) ** 2 / variance + np.log(variance))  # log density up to a constant
            for mean, variance in ((mean_in, variance_in), (mean_out, variance_out))
        )
        evidence = seen - unseen
    else:
        evidence = (observed - mean_out) / np.sqrt(variance_out)
    return np.where(enough, evidence.sum(axis=1), 0.0)


def leave_one_out(observations: Observed, members: Members, *, online: bool) -> Float[np.ndarray, "models candidates"]:
    """Attack each model in turn, with all others as its shadows."""
    every = np.arange(len(observations))
    return np.stack(
        [lira_scores(observations[it], observations[every != it], members[every != it], online=online) for it in every]
    )


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
