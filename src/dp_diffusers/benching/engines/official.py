"""The pattern of the code published with DP-LoRA: K copies on the batch axis, the autoencoder at every step.

Guarantees nothing: each copy is clipped as if it were a unit, so that a unit moves the sum by K times the
clip norm. May import torch and opacus. Source: the training code of arXiv 2406.01355, by its description.
"""

from __future__ import annotations

from typing import Final

from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor

from dp_diffusers.benching.engines.opacus import OpacusEngine, dp_optimizer
from dp_diffusers.benching.work import Work
from dp_diffusers.diffusion.objective import Draws

PASS: Final = 10
"""Images that the published settings take at a time."""


class Official(OpacusEngine):
    """Opacus' hooks on K copies of each image that was just encoded, ten images at a time."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._module = GradSampleModule(work.family.network, loss_reduction="sum", strict=False)
        self._optimizer = dp_optimizer(DPOptimizer, work, rows=True)

    def step(self, number: int) -> None:
        """Pass after pass; the optimiser waits for the last one."""
        del number
        draws = self._work.draws()
        for start in range(0, self._work.units, PASS):
            self._optimizer.zero_grad()
            self._pass(draws, start)
            self._optimizer.signal_skip_step(start + PASS < self._work.units)
            self._optimizer.step()

    def clipped_sum(self, draws: Draws, clip_norm: float) -> list[Tensor]:
        """The sum over copies, in units of gradients of units."""
        self._optimizer.zero_grad()
        self._optimizer.max_grad_norm = clip_norm
        for start in range(0, self._work.units, PASS):
            self._pass(draws, start)
            self._optimizer.clip_and_accumulate()
            for parameter in self._work.parameters:
                parameter.grad_sample = None  # type: ignore[attr-defined]
        summed = (parameter.summed_grad for parameter in self._work.parameters)  # type: ignore[attr-defined]
        return [total / self._work.noise_draws for total in summed]

    def _pass(self, draws: Draws, start: int) -> None:
        slots, chosen = self._work.noise_draws, slice(start, start + PASS)
        rows = slice(start * slots, (start + PASS) * slots)
        clean = self._work.encoded(chosen).repeat_interleave(slots, 0)
        labels = self._work.labels[chosen].repeat_interleave(slots, 0)
        self._work.losses_of(clean, labels, draws.of(rows)).sum().backward()  # type: ignore[no-untyped-call]
