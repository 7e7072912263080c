"""The dry run: before anything is spent, the engine is tried on this very model with random tensors.

Guarantees that the loop may rely on: every trainable tensor has unit gradients equal to those of a batch of
one, and changing one row leaves the losses of the others as they were. May import torch; joins the engine's
check with a model family. No private byte is read.
"""

from __future__ import annotations

import torch

from dp_diffusers.diffusion.family import Family
from dp_diffusers.diffusion.objective import Draws
from dp_diffusers.engine.dry_run import Losses, dry_run

ROWS = 4


def rehearse(family: Family) -> None:
    """Raises `ModelError` naming the layer that mixes rows or the tensor that the gradient rules miss."""
    dry_run(family.network, random_losses(family), rows=ROWS)


def random_losses(family: Family) -> Losses:
    """Losses of random rows by their numbers, 0 to `ROWS` - 1."""
    generator = torch.Generator().manual_seed(0)
    device = next(family.network.parameters()).device
    clean = torch.randn(ROWS, *family.shape, generator=generator).clamp(-1, 1).to(device)
    levels = family.objective.level_count
    draws = Draws(
        timesteps=torch.linspace(levels * 0.2, levels * 0.8, ROWS).long().to(device),
        noise=torch.randn(ROWS, *family.shape, generator=generator).to(device),
        drop_label=torch.zeros(ROWS, dtype=torch.bool, device=device),
    )
    labels = torch.arange(ROWS, device=device) % family.classes if family.classes else None

    def losses(rows: torch.Tensor) -> torch.Tensor:
        chosen = Draws(
            timesteps=draws.timesteps[rows], noise=draws.noise[rows], drop_label=draws.drop_label[rows]
        )
        return family.row_losses(clean[rows], None if labels is None else labels[rows], chosen)

    return losses
