"""The pattern of the code published with DP-LoRA: K copies on the batch axis, the autoencoder at every step.

Guarantees nothing: each copy is clipped as if it were a unit, so that a unit moves the sum by K times the
clip norm. Its small passes are left out, which favours it. May import torch and opacus. Source: the training
code of arXiv 2406.01355, by its description.
"""

from __future__ import annotations

from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor

from dp_diffusers.benching.engines.opacus import OpacusEngine, dp_optimizer
from dp_diffusers.benching.work import Work
from dp_diffusers.diffusion.objective import Draws


class Official(OpacusEngine):
    """Opacus' hooks on K copies of each image that was just encoded."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._module = GradSampleModule(work.family.network, loss_reduction="sum", strict=False)
        self._optimizer = dp_optimizer(DPOptimizer, work, rows=True)

    def clipped_sum(self, draws: Draws, clip_norm: float) -> list[Tensor]:
        """The sum over copies, in units of gradients of units."""
        return [total / self._work.noise_draws for total in super().clipped_sum(draws, clip_norm)]

    def _backward(self, draws: Draws) -> None:
        slots = self._work.noise_draws
        clean = self._work.encoded().repeat_interleave(slots, 0)
        labels = self._work.labels.repeat_interleave(slots, 0)
        self._work.losses_of(clean, labels, draws).sum().backward()  # type: ignore[no-untyped-call]
