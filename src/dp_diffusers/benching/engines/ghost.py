"""Opacus with ghost clipping: norms without gradients of rows, then a second backward pass.

Guarantees nothing for several rows a unit: norms are those of rows, and Opacus has no others; the error of
the gradient shows it. May import torch and opacus. Source: Li et al. (2022, arXiv 2110.05679).
"""

from __future__ import annotations

from typing import Any

from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor

from dp_diffusers.benching.engines import CLIP_NORM
from dp_diffusers.benching.engines.opacus import OpacusEngine, dp_optimizer
from dp_diffusers.benching.work import Work
from dp_diffusers.diffusion.objective import Draws


class Ghost(OpacusEngine):
    """`grad_sample_mode="ghost"`."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._module = GradSampleModuleFastGradientClipping(
            work.family.network, loss_reduction="sum", strict=False, max_grad_norm=CLIP_NORM
        )
        self._optimizer = dp_optimizer(DPOptimizerFastGradientClipping, work, rows=True)

    def clipped_sum(self, draws: Draws, clip_norm: float) -> list[Tensor]:
        """The sum of the second backward pass, in units of gradients of units."""
        self._optimizer.zero_grad()
        self._module.max_grad_norm = clip_norm
        self._backward(draws)
        gradients: list[Any] = [parameter.grad for parameter in self._work.parameters]
        return [gradient / self._work.noise_draws for gradient in gradients]

    def _backward(self, draws: Draws) -> None:
        losses = self._work.losses(draws)
        DPTensorFastGradientClipping(self._module, self._optimizer, losses, loss_reduction="sum").backward()
