"""The rows of a case and their losses: the same for every engine.

Guarantees equal models and images for equal cases, and that the rows of a unit are neighbours. May import
torch, diffusion and strategies, never the engine or the accountant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dp_diffusers.benching import models
from dp_diffusers.benching.case import STRATEGIES, Case
from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.strategies import strategy_of

_LEARNING_RATE = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """A model under a strategy, and the units of one step.

    images: uint8 `[U, H, W, C]`. clean: `[U, c, h, w]` on the device, those images encoded; of a model on
    latents, random ones in their place unless it is tiny. labels: `[U]`.
    """

    case: Case
    family: Family
    images: np.ndarray
    clean: Tensor
    labels: Tensor

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.clean.device

    @property
    def units(self) -> int:
        """U."""
        return self.case.units

    @property
    def noise_draws(self) -> int:
        """K."""
        return self.case.noise_draws

    @property
    def owner(self) -> Tensor:
        """`[R]`: the unit of each row."""
        return torch.arange(self.units, device=self.device).repeat_interleave(self.noise_draws)

    @property
    def weight(self) -> Tensor:
        """`[R]`: 1/K each."""
        return torch.full((self.case.rows,), 1.0 / self.noise_draws, device=self.device)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained, in the order of the network."""
        return [parameter for parameter in self.family.network.parameters() if parameter.requires_grad]

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam over what is trained; it moves too little to change what a step costs."""
        return torch.optim.Adam(self.parameters, lr=_LEARNING_RATE)

    def draws(self) -> Draws:
        """Timesteps and noise of R rows as ordinary trainers draw them: from torch's own generator."""
        rows, device = self.case.rows, self.device
        levels = self.family.objective.level_count
        return Draws(
            timesteps=torch.randint(levels, (rows,), device=device),
            noise=torch.randn(rows, *self.family.shape, device=device),
            drop_label=torch.zeros(rows, dtype=torch.bool, device=device),
        )

    def losses(self, draws: Draws) -> Tensor:
        """`[R]`: the losses of the rows, the K rows of a unit side by side."""
        clean, labels = (
            values.repeat_interleave(self.noise_draws, 0) for values in (self.clean, self.labels)
        )
        return self.losses_of(clean, labels, draws)

    def losses_of(self, clean: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """`[R]`: the losses of given rows, under the case's precision."""
        kind = getattr(torch, self.case.dtype)
        with torch.autocast(self.device.type, dtype=kind, enabled=kind is not torch.float32):
            return self.family.row_losses(clean, labels, draws)

    def encoded(self, chosen: slice) -> Tensor:
        """`[u, c, h, w]`: some of the images, encoded again."""
        return self.family.encode(self.images[chosen]).to(self.device)


def work_of(case: Case, *, device: torch.device, tiny: bool = False) -> Work:
    """The work of a case on random images. tiny: with the small model of the family."""
    family = models.family(case.family, tiny=tiny)
    strategy_of(STRATEGIES[case.strategy]).apply(family.network, seed=0)
    _move_from_zero(family.network)
    family.network.to(device)
    rng = np.random.default_rng(0)
    shape = (case.units, family.size, family.size, family.channels)
    images = rng.integers(0, 256, shape).astype(np.uint8)
    labels = torch.arange(case.units, device=device) % models.CLASSES
    if tiny or not family.encodes_once:
        clean = family.encode(images)
    else:  # an autoencoder of random weights gives nothing better
        clean = torch.from_numpy(rng.standard_normal((case.units, *family.shape), dtype=np.float32))
    return Work(case=case, family=family, images=images, clean=clean.to(device), labels=labels)


def _move_from_zero(network: torch.nn.Module) -> None:
    """An adapter's B starts at zero, and would hide the gradient of A."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
