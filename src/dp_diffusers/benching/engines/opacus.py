"""Opacus with a gradient a row: its hooks, or functorch for every layer.

Guarantees that Opacus is used as its users would have to, to be right: the K rows of a unit are averaged
before the clip. May import torch and opacus. Source: Opacus (Yousefpour et al. 2021, arXiv 2109.12298).
"""

from __future__ import annotations

from typing import Any, ClassVar

from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor

from dp_diffusers.benching.engines import CLIP_NORM, NOISE_MULTIPLIER, Engine
from dp_diffusers.benching.work import Work
from dp_diffusers.diffusion.objective import Draws


class OpacusEngine(Engine):
    """One step and one clipped sum of an optimiser of Opacus."""

    _work: Work
    _optimizer: Any

    def step(self, number: int) -> None:
        """Forward, backward, clip, noise, Adam."""
        del number
        self._optimizer.zero_grad()
        self._backward(self._work.draws())
        self._optimizer.step()

    def clipped_sum(self, draws: Draws, clip_norm: float) -> list[Tensor]:
        """Opacus' own sum before its noise."""
        self._optimizer.zero_grad()
        self._optimizer.max_grad_norm = clip_norm
        self._backward(draws)
        self._optimizer.clip_and_accumulate()
        return [parameter.summed_grad for parameter in self._work.parameters]  # type: ignore[attr-defined]

    def _backward(self, draws: Draws) -> None:
        """Leaves in the parameters what the optimiser clips."""
        raise NotImplementedError


class Hooks(OpacusEngine):
    """`grad_sample_mode="hooks"`, the default: rules for the layers that have one, functorch for others."""

    functorch: ClassVar[bool] = False

    def __init__(self, work: Work) -> None:
        self._work = work
        self._module = GradSampleModule(
            work.family.network, loss_reduction="sum", strict=False, force_functorch=self.functorch
        )
        self._optimizer = dp_optimizer(DPOptimizer, work)

    def _backward(self, draws: Draws) -> None:
        self._work.losses(draws).sum().backward()  # type: ignore[no-untyped-call]
        units, slots = self._work.units, self._work.noise_draws
        if slots > 1:
            for parameter in self._work.parameters:
                rows: Any = parameter.grad_sample  # type: ignore[attr-defined]
                parameter.grad_sample = rows.view(units, slots, *parameter.shape).mean(1)  # type: ignore[attr-defined]


class Functorch(Hooks):
    """`grad_sample_mode="functorch"`: each layer's gradient by vmap, whatever rule there is."""

    functorch: ClassVar[bool] = True


def dp_optimizer(kind: Any, work: Work, *, rows: bool = False) -> Any:
    """One of Opacus' optimizers around the same Adam. rows: each row is clipped as if it were a unit."""
    return kind(
        work.optimizer(),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=work.case.rows if rows else work.units,
    )
