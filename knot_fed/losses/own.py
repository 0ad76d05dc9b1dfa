"""A user's own loss, checked at each call."""

import torch

from knot_fed.errors import OwnCodeError
from knot_fed.losses.interface import Loss

NO_GRADIENT = "your function's result has no gradient in the logits; compute it by torch"


def checked_loss(function: Loss, *, name: str) -> Loss:
    """Return the function, which is then refused where it does not return one number that depends on the logits.

    Parameters
    ----------
    function, name
        The loss, and what the configuration calls it.
    """

    def checked(logits: torch.Tensor, soft_labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        value = function(logits, soft_labels, weights)
        if not isinstance(value, torch.Tensor) or value.ndim or not value.is_floating_point():
            found = (
                f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            )
            raise OwnCodeError(
                f"distill.loss = {name!r}: your function returned {found}; return one number, the mean over examples"
            )
        if torch.is_grad_enabled() and logits.requires_grad and not value.requires_grad:
            raise OwnCodeError(f"distill.loss = {name!r}: {NO_GRADIENT}")
        return value

    return checked


def try_loss(loss: Loss, *, labels: int, name: str) -> None:
    """Call a loss on a small batch, forwards and backwards, before a run depends on it.

    Raises
    ------
    OwnCodeError
        If it raises, does not return one number, or returns or leads to a number that is not finite.
    """
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, labels, generator=generator, requires_grad=True)
    soft_labels = torch.softmax(torch.randn(4, 3, labels, generator=generator), dim=2)
    weights = torch.softmax(torch.randn(4, 3, generator=generator), dim=1)
    value = loss(logits, soft_labels, weights)
    value.backward()  # type: ignore[no-untyped-call]
    if logits.grad is None:
        raise OwnCodeError(f"distill.loss = {name!r}: {NO_GRADIENT}")
    if not torch.isfinite(value) or not torch.isfinite(logits.grad).all():
        raise OwnCodeError(
            f"distill.loss = {name!r}: on a small batch your function returned {float(value.detach()):g}, or a"
            " gradient that is not finite; mend it"
        )
