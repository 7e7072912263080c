"""The plain step: peft and diffusers with autograd, no clipping and no noise.

Guarantee: NOT PRIVATE; it is what the others are divided by. May import torch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dp_diffusers.benching.engines import Engine
from dp_diffusers.benching.work import Work
from dp_diffusers.diffusion.objective import Draws


class Plain(Engine):
    """One backward pass of the mean loss of all rows, then Adam."""

    clips: ClassVar[bool] = False

    def __init__(self, work: Work) -> None:
        self._work, self._optimizer = work, work.optimizer()

    def step(self, number: int) -> None:
        """As in any training loop."""
        del number
        self._optimizer.zero_grad(set_to_none=True)
        self._work.losses(self._work.draws()).mean().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def clipped_sum(self, draws: Draws, clip_norm: float) -> list[Tensor]:
        """The sum over units without clipping."""
        del clip_norm
        total = self._work.losses(draws).sum() / self._work.noise_draws
        return list(torch.autograd.grad(total, self._work.parameters))
