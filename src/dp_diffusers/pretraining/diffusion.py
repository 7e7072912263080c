"""The loss of a public pre-training's diffusion model, on pixels or on latents encoded once.

Guarantee: batch and draws are a function of (seed, step) alone. May import torch, never the engine. Training
is that of Ho et al. (2020), with label dropout for guidance (Ho & Salimans 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dp_diffusers.data.public_images import PublicImages
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.recipe import PretrainTraining

Encoded = Callable[[np.ndarray, np.ndarray], torch.Tensor]
"""Image numbers `[R]` and variants `[R]` to what the network sees, float32 `[R, c, h, w]`."""


@dataclass(frozen=True, kw_only=True)
class DiffusionLoss:
    """The mean loss of a step. encoded: what the network sees; variant 1 is the mirror image."""

    family: Family
    images: PublicImages
    encoded: Encoded
    training: PretrainTraining

    def __call__(self, step: int) -> torch.Tensor:
        """Draws the batch of a step, and compares prediction with target."""
        rng = np.random.default_rng([self.training.seed, step])
        chosen = self.images.choose(rng, self.training.batch_size)
        draws = self.draws(rng, len(chosen))
        mirrored = rng.random(len(chosen)) < 0.5 if self.training.flip else np.zeros(len(chosen), bool)
        device = next(self.family.network.parameters()).device
        labels = torch.from_numpy(self.images.labels[chosen]).to(device) if self.family.classes else None
        clean = self.encoded(chosen, mirrored.astype(np.int64)).to(device)
        return self.family.row_losses(clean, labels, draws.to(device)).mean()

    def draws(self, rng: np.random.Generator, count: int) -> Draws:
        """Public draws for `count` rows: timesteps stratified over the batch, which lowers their variance."""
        levels = self.family.objective.levels((rng.permutation(count) + rng.random(count)) / count)
        return Draws(
            timesteps=torch.from_numpy(levels),
            noise=torch.from_numpy(rng.standard_normal((count, *self.family.shape), dtype=np.float32)),
            drop_label=torch.from_numpy(rng.random(count) < self.training.label_dropout),
        )
