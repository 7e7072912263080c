"""A warm-up: the adapter learns coarse looks from images drawn by charged moments, before the first step.

Guarantee: all of it is post-processing of the noisy moments and public numbers; no private image is seen. May
import torch and the family. Source: a warm-up on noisy mean images, DP-FETA (Gong et al. 2025); here whole
Gaussians of each class, in coarse frequencies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from dp_diffusers.asked_moments import Moments
from dp_diffusers.diffusion.family import Family
from dp_diffusers.errors import ParameterError
from dp_diffusers.image_batches import Batches, encoded_once
from dp_diffusers.mechanisms.moments import Gaussians
from dp_diffusers.recipe.sections.warmup import WarmupSettings
from dp_diffusers.steps import optimizer_of, rate_factor

STREAM: Final = 0x7761726D  # keeps these draws apart from others of the same seed
REPORTS: Final = 10


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
        gradients: Callable[[int], list[Tensor | None]],
        progress: Callable[..., None],
    ) -> None:
        """All steps. gradients: those of `batches` at a step. Raises `ParameterError` where it diverges."""
        settings = self.settings
        optimizer = optimizer_of("adam", parameters, settings.learning_rate)
        for step in range(settings.steps):
            if step % max(settings.steps // REPORTS, 1) == 0:
                progress(message=f"warm-up: step {step} of {settings.steps}")
            for parameter, gradient in zip(parameters, gradients(step), strict=True):
                parameter.grad = gradient
            rate = rate_factor(step, settings.steps, schedule="cosine", warmup=0)
            optimizer.param_groups[0].update(lr=settings.learning_rate * rate)
            optimizer.step()
        optimizer.zero_grad()
        if not all(torch.isfinite(parameter).all() for parameter in parameters):
            raise ParameterError(
                "the warm-up did not converge: its weights are not finite", hint="lower warmup.learning_rate"
            )
