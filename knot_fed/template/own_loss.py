"""A custom loss: `flower-simulation run.toml 'distill.loss=own_loss:cumulative'`."""

import torch


def cumulative(logits: torch.Tensor, soft_labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compare distributions over ordered labels by their cumulative sums (ranked probability score).

    Parameters
    ----------
    logits
        Of the student, (B, L).
    soft_labels
        Of K teachers, (B, K, L); each row sums to 1.
    weights
        (B, K), >= 0; how much each teacher counts on each text.

    Returns
    -------
    loss
        One number: the mean over texts of the weighted sum over teachers.
    """
    student = torch.softmax(logits, dim=1).cumsum(dim=1)[:, None, :]
    distances = ((student - soft_labels.cumsum(dim=2)) ** 2).sum(dim=2)
    return (weights * distances).sum(dim=1).mean()
