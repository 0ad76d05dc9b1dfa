"""The optimiser of DP-SGD: Opacus's, with exact sums and discrete noise. Imported on use, since it needs Opacus."""

from typing import Any

import torch
from opacus.optimizers import DPOptimizer
from typing_extensions import override

from knot_fed.errors import PrivacyError
from knot_fed.privacy.noise import LARGEST, NoiseSource, grid_step

CLIPPING_ERROR = 1e-12
"""Bound of the relative rounding error of a norm and of a scaled entry in double precision."""
BATCH_ROUNDING = 2.0**-12
"""Extra noise, since gradients are computed in float32 in a batch: their last bits depend on its size, by about 1e-7.
It covers two thousand examples that all differ by that."""


class ExactDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """Integer sums of clipped gradients on a grid, plus discrete Gaussian noise of `source`.

    Each example's gradient is clipped in double precision and truncated to the grid towards zero, so its norm never
    exceeds `max_grad_norm`. Integers add without rounding: one example more or less changes the sum by its own clipped
    gradient, whatever the order of addition, and by what `BATCH_ROUNDING` covers. `noise_multiplier` is the standard
    deviation over the clipping norm.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, noise_multiplier: float, max_grad_norm: float, source: NoiseSource
    ) -> None:
        super().__init__(
            optimizer, noise_multiplier=noise_multiplier, max_grad_norm=max_grad_norm, expected_batch_size=None,
            loss_reduction="sum",
        )  # fmt: skip
        self._source = source
        self._step = grid_step(noise_multiplier * max_grad_norm * (1 + BATCH_ROUNDING))
        self._summed = 0

    @override
    def clip_and_accumulate(self) -> None:
        samples = [sample.flatten(1).double() for sample in self.grad_samples]
        norms = torch.stack([sample.norm(dim=1) for sample in samples]).norm(dim=0)
        self._count(len(norms))
        factors = (self.max_grad_norm * (1 - CLIPPING_ERROR) / norms.clamp(min=self.max_grad_norm)) / self._step
        factors = torch.where(norms.isfinite(), factors, 0.0)
        for parameter, sample in zip(self.params, samples, strict=True):
            scaled = torch.nan_to_num(sample, nan=0.0, posinf=0.0, neginf=0.0) * factors[:, None]
            total = scaled.trunc().long().sum(dim=0)
            parameter.summed_grad = total if parameter.summed_grad is None else parameter.summed_grad + total

    @override
    def add_noise(self) -> None:
        self._summed = 0
        for parameter in self.params:
            noise = torch.from_numpy(self._source.steps(parameter.numel())).to(parameter.device)
            noisy: Any = (parameter.summed_grad + noise).double() * self._step
            parameter.grad = noisy.to(parameter.dtype).view_as(parameter)

    def _count(self, examples: int) -> None:
        """Count the gradients of one sum, and refuse more than are certain to fit 64 bits."""
        self._summed += examples
        if self._summed * self.max_grad_norm / self._step >= LARGEST:
            raise PrivacyError(
                f"noise multiplier {self.noise_multiplier:g} is too small for a sum of {self._summed} gradients;"
                " ask for a smaller privacy.epsilon or a smaller privacy.sampling-rate"
            )
