"""A warm-up: the adapter learns coarse looks from images drawn by charged moments, before the first step.

Guarantees: all of it is post-processing of the noisy moments and public numbers, no private image is seen; a
warm-up that diverges is begun again more slowly, and at last left out, so that what was paid is never a dead
end. May import torch and the family. Source: a warm-up on noisy mean images, DP-FETA (Gong et al. 2025); here
whole Gaussians of each class, in coarse frequencies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from dp_diffusers.diffusion.family import Family
from dp_diffusers.loop.image_batches import Batches, encoded_once
from dp_diffusers.loop.steps import rate_factor
from dp_diffusers.mechanisms.moments import Gaussians
from dp_diffusers.processes import Team
from dp_diffusers.queries.asked_moments import Moments
from dp_diffusers.recipe.sections.warmup import WarmupSettings

STREAM: Final = 0x7761726D  # keeps these draws apart from others of the same seed
MEETINGS: Final = 10  # processes meet as often, and progress is shown
SLOWER: Final = (1.0, 0.1, 0.01)  # of the learning rate: one attempt after the other

Gradients = Callable[[int], list[Tensor | None]]


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Drawn images, as the family takes them."""

    batches: Batches
    settings: WarmupSettings

    @classmethod
    def on(cls, asked: Moments, gaussians: Gaussians, family: Family, *, seed: int) -> Warmup:
        """Draws the images; the family is on its device."""
        images, labels = asked.images(gaussians, seed)
        batches = Batches(
            family=family,
            images=images,
            labels=labels,
            clean=encoded_once(family, images),
            size=asked.settings.batch_size,
            seed=seed,
            stream=STREAM,
        )
        return cls(batches=batches, settings=asked.settings)

    def train(
        self,
        parameters: list[nn.Parameter],
        gradients: Gradients,
        team: Team,
        progress: Callable[..., None],
    ) -> None:
        """All steps, in every process alike; weights that are not finite are never left behind.

        gradients: those of `batches` at a step.
        """
        before = [parameter.detach().clone() for parameter in parameters]
        for attempt, slower in enumerate(SLOWER):
            if attempt:
                progress(message="the warm-up did not converge: again, at a tenth of its learning rate")
            rate = slower * self.settings.learning_rate
            converges = self._converges(parameters, gradients, rate, team, progress)
            for parameter in parameters:
                parameter.grad = None
            if converges:
                return
            with torch.no_grad():
                for parameter, value in zip(parameters, before, strict=True):
                    parameter.copy_(value)
        progress(message="the warm-up is left out: it does not converge; lower warmup.learning_rate")

    def _converges(
        self,
        parameters: list[nn.Parameter],
        gradients: Gradients,
        rate: float,
        team: Team,
        progress: Callable[..., None],
    ) -> bool:
        steps = self.settings.steps
        optimizer = torch.optim.Adam(parameters, lr=rate)
        starts = sorted({steps * part // MEETINGS for part in range(MEETINGS)})
        for start, stop in zip(starts, [*starts[1:], steps], strict=True):
            progress(message=f"warm-up: step {start} of {steps}")
            team.all_do(partial(self._steps, optimizer, gradients, rate, range(start, stop)))
            with torch.no_grad():  # those of one process for all: machines may differ in their last bits
                team.copy_from_first([parameter.data for parameter in parameters])
            if not team.first_tells(lambda: bool(all(p.isfinite().all() for p in parameters))):
                return False
        return True

    def _steps(self, optimizer: Any, gradients: Gradients, rate: float, steps: range) -> None:
        (group,) = optimizer.param_groups
        for step in steps:
            for parameter, gradient in zip(group["params"], gradients(step), strict=True):
                parameter.grad = gradient
            group["lr"] = rate * rate_factor(step, self.settings.steps, schedule="cosine", warmup=0)
            optimizer.step()
